"""All numbers of a trained run, and its pictures."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from invariances.errors import UserError
from invariances.features import Features, seeded
from invariances.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.run import CONFIG, EVALUATION, atomic
from invariances.training_data import CacheOptions, FeatureData

from .faithfulness import faithfulness, image_batches
from .fid import Distance, feature_space
from .invariance import bits_per_dim, variance

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


def evaluate(
    interpreter: Interpreter,
    pictures: Any,
    features: Features,
    *,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The numbers of one interpreter on pictures kept out and their features; arguments as of `evaluate_run`."""
    shown = pictures if limit is None or limit >= len(pictures) else _First(pictures, limit)
    result: dict[str, Any] = {
        "pictures": features.n,
        "pictures_sampled": len(shown),
        "samples_per_picture": n,
        "temperature": temperature,
        "seed": seed,
        "nll_bits_per_dim": bits_per_dim(interpreter.flow, features),
        "unconditional_nll_bits_per_dim": None,
    }
    result |= variance(interpreter.flow, features, seed=seed)
    result |= faithfulness(interpreter, shown, n, temperature, seed, progress=progress)
    result["fid"] = None if fid == "none" else _fid(interpreter, shown, fid, temperature, seed)
    return result


class _First:
    def __init__(self, pictures: Any, count: int) -> None:
        self.pictures, self.count = pictures, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.pictures[index]


@torch.no_grad()
def _fid(interpreter: Interpreter, pictures: Any, name: str, temperature: float, seed: int) -> dict[str, Any]:
    """FID of one sample per picture, and of the reconstructions, against the pictures."""
    space = feature_space(name, interpreter.representation)
    distances = {each: Distance(space, interpreter.device) for each in ("samples", "reconstructions")}
    for indices, raw in image_batches(pictures, 16):
        images = interpreter.resized(raw)
        generator = seeded("fid", seed, int(indices[0]))
        made = {
            "samples": interpreter.sample(images, 1, temperature, generator)[:, 0],
            "reconstructions": interpreter.reconstruct(images),
        }
        for each, distance in distances.items():
            distance.add(images, True)
            distance.add(made[each], False)
    values = {each: distance.value() for each, distance in distances.items()}
    return {"features": space.name, "pictures": len(pictures), **values}


def unconditional_flow(
    interpreter: Interpreter,
    data: FeatureData,
    config: dict[str, Any],
    steps: int | None = None,
    progress: bool = True,
) -> ConditionalFlow:
    """A flow of the same blocks, width and depth that is told nothing, trained as the run was."""
    from lightning.pytorch import Trainer

    from invariances.training import FlowTraining
    from invariances.training_loop import parts, quiet

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


def finite(value: Any) -> Any:
    """`value` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _draw(
    interpreter: Interpreter,
    data: FeatureData,
    result: dict[str, Any],
    folder: Path,
    temperature: float,
    seed: int,
) -> None:
    from invariances.report import grid, page, picture, save_grid, save_page, table

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
