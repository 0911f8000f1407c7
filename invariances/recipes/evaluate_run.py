"""All numbers of a trained run, and its pictures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from invariances.evaluation.invariance import bits_per_dim
from invariances.evaluation.numbers import evaluate, finite
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import CONFIG, Interpreter
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.training.data import CacheOptions, FeatureData
from invariances.training.run_folder import EVALUATION

GRID, PAGE = "evaluation.png", "evaluation.html"


_ROWS, _COLUMNS = 8, 8


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        UserError: There are none, or the file is damaged.
    """
    path = Path(folder) / CONFIG
    if not Path(folder).is_dir():
        raise UserError(
            f"folder {str(folder)!r} does not exist; give the folder of a run of `invariances fit`"
        )
    if not path.exists():
        raise UserError(
            f"folder {str(folder)!r} holds no {CONFIG}; give the folder of a run of `invariances fit`"
        )
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{str(path)!r} is not valid YAML ({error})") from None
    if not isinstance(config, dict) or "data" not in config:
        raise UserError(f"{str(path)!r} is not a run's config; give the folder of a run of `invariances fit`")
    return config


def data_of(config: dict[str, Any], images: str | None = None) -> FeatureData:
    """The run's pictures, split as in training; or those of another folder, all of them to evaluate on.

    Raises:
        UserError: The run was trained on a data set given in Python, and no folder is given now.
    """
    settings = dict(config["data"])
    if images is not None:
        data = FeatureData.of(images, images, skip_broken=bool(settings.get("skip_broken")))
    elif settings.get("images"):
        data = FeatureData(**settings)
    else:
        raise UserError("the run was trained on a data set given in Python; name a folder with --images")
    data.cache = CacheOptions(**config.get("cache", {}))
    return data


def evaluate_run(
    folder: str | os.PathLike[str],
    *,
    network: str | torch.nn.Module | None = None,
    images: str | None = None,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    unconditional: bool = False,
    unconditional_steps: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Every number of a run, written to `evaluation.json` with `evaluation.png` and a page beside it.

    Args:
        folder: Of a run of `invariances fit`.
        network: As of `Interpreter.load`.
        images: Another folder to evaluate on, instead of the pictures kept out.
        n: Samples per picture.
        temperature: Of the samples that are looked at; likelihood and variance are of temperature 1.
        fid: Feature space, see `feature_space`; "none" leaves it out.
        unconditional: Also train a flow of the same size that is told nothing, for comparison.
        unconditional_steps: Its steps; the run's own number by default.
        limit: At most so many pictures for samples and FID.
        seed: Of all samples.
        progress: Bars on stderr.
    """
    config = read_config(folder)
    interpreter = Interpreter.load(folder, network)
    data = data_of(config, images)
    data.progress = progress
    data.prepare([interpreter.representation], interpreter.autoencoder, training=unconditional)
    layer = interpreter.representation.layer
    result: dict[str, Any] = {
        "run": str(folder),
        "network": interpreter.representation.network_name,
        "layer": layer,
    }
    result |= evaluate(
        interpreter,
        data.held_out_set,
        data.held_out_features(layer),
        n=n,
        temperature=temperature,
        fid=fid,
        limit=limit,
        seed=seed,
        progress=progress,
    )
    if unconditional:
        flow = unconditional_flow(interpreter, data, config, unconditional_steps, progress)
        result["unconditional_nll_bits_per_dim"] = bits_per_dim(flow, data.held_out_features(layer))
    with atomic(Path(folder) / EVALUATION) as draft:
        draft.write_text(json.dumps(finite(result), indent=2) + "\n")
    _draw(interpreter, data, result, Path(folder), temperature, seed)
    return result


def unconditional_flow(
    interpreter: Interpreter,
    data: FeatureData,
    config: dict[str, Any],
    steps: int | None = None,
    progress: bool = True,
) -> ConditionalFlow:
    """A flow of the same blocks, width and depth that is told nothing, trained as the run was."""
    from lightning.pytorch import Trainer

    from invariances.training.callbacks import parts, quiet
    from invariances.training.flow import FlowTraining

    settings = config.get("model", {})
    names = ("learning_rate", "schedule", "warmup", "ema", "keep", "weight_decay")
    seed = int(config.get("seed_everything", 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = ConditionalFlow(**{**interpreter.flow.config, "representation_shape": []})
    options = {name: settings[name] for name in names if name in settings}
    training = FlowTraining(interpreter.representation, interpreter.autoencoder, flow, seed=seed, **options)
    count = config.get("trainer", {}).get("max_steps", -1) if steps is None else steps
    if count < 1:
        raise UserError("the run does not say for how many steps it was trained; give --unconditional_steps")
    with quiet():
        trainer = Trainer(
            max_steps=count,
            accelerator="auto",
            devices=1,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            **parts(None, 0, 0, progress),
        )
        trainer.fit(training, datamodule=data)
    return training.kept.eval()


def _draw(
    interpreter: Interpreter,
    data: FeatureData,
    result: dict[str, Any],
    folder: Path,
    temperature: float,
    seed: int,
) -> None:
    from invariances.report.grids import grid, save_grid
    from invariances.report.html import page, picture, save_page, table

    images = data.held_out_images(_ROWS)
    samples = interpreter.sample(images, _COLUMNS, temperature, seeded("grid", seed))
    rows = torch.stack(
        [interpreter.resized(images), interpreter.reconstruct(images), *samples.unbind(1)], dim=1
    )
    names = ["picture", "autoencoder", *["sample"] * _COLUMNS]
    save_grid(rows, folder / GRID, column_labels=names)
    numbers = [[key, value] for key, value in _flat(finite(result)) if value is not None]
    title = f"What {result['layer']} of {result['network']} knows"
    sections = {
        "Samples": [
            picture(
                grid(rows, column_labels=names),
                "pictures, reconstructions and samples",
                f"Every sample is a picture that {result['layer']} can hardly tell from the first of its row: "
                "what they share, the layer knows; what varies, it ignores.",
            )
        ],
        "Numbers": [table(["measure", "value"], numbers)],
    }
    save_page(page(title, sections), folder / PAGE)
    print(f"pictures: {folder / GRID}, page: {folder / PAGE}", file=sys.stderr)


def _flat(result: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in result.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found
