"""All numbers of a trained run, and its pictures."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invariances.data.identity import Identity, without
from invariances.evaluation.likelihood import bits_per_dim
from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import evaluate, finite, lines
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import grid, save_grid
from invariances.report.html import page, picture, save_page, table
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.machine import accelerator
from invariances.system.seeds import seeded
from invariances.training.config import FitConfig
from invariances.training.data import FeatureData
from invariances.training.fit import train_flow
from invariances.training.run_folder import TRAINED_ON, read_config

EVALUATION, GRID, PAGE = "evaluation.json", "evaluation.png", "evaluation.html"
_ROWS, _COLUMNS = 8, 8


def evaluate_run(
    folder: str | os.PathLike[str],
    *,
    network: str | nn.Module | None = None,
    images: str | None = None,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    unconditional: bool = False,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
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
        unconditional: Also train a flow of the same size that is told nothing, as the run was, for comparison.
        limit: At most so many pictures for samples and FID.
        seed: Of all samples.
        device: As of `RunConfig`.
        progress: Bars on stderr.

    Raises:
        UserError: The run cannot be read, or all pictures to evaluate on were trained on.
    """
    config = read_config(folder)
    interpreter = Interpreter.load(folder, network).to(accelerator(device))
    representation = interpreter.representation
    data = pictures_of(folder, config, interpreter.image_size, images, progress)
    data.prepare([representation], interpreter.autoencoder, training=unconditional)
    features = data.held_out_features(representation.layer)
    result: dict[str, Any] = {
        "run": str(folder),
        "network": representation.network_name,
        "layer": representation.layer,
    }
    result |= evaluate(
        interpreter,
        data.held_out_set,
        features,
        sampling=Sampling(n, temperature, seed),
        fid=fid,
        limit=limit,
        progress=progress,
    )
    if unconditional:
        flow = unconditional_flow(interpreter, data, config, progress)
        result["unconditional_nll_bits_per_dim"] = bits_per_dim(flow, features)
    with atomic(Path(folder) / EVALUATION) as draft:
        draft.write_text(json.dumps(finite(result), indent=2) + "\n", encoding="utf-8")
    draw(interpreter, data, result, Path(folder), temperature)
    return result


def pictures_of(
    folder: str | os.PathLike[str], config: FitConfig, size: int, images: str | None, progress: bool
) -> FeatureData:
    """The run's pictures kept out, or those of another folder; none that the run was trained on.

    Args:
        folder: Of the run.
        config: Of the run.
        size: Of the pictures.
        images: The other folder.
        progress: Bars on stderr.

    Raises:
        UserError: The run's pictures were given in Python and no folder is, or none is left.
    """
    if images is None and config.data.images is None:
        raise UserError("the run was trained on a data set given in Python; name a folder with --images")
    source: Any = config.data.images if images is None else images
    data = FeatureData(source, images, config.data, config.cache, config.run.precision, progress)
    data.read(size)
    path = Path(folder) / TRAINED_ON
    if not path.is_file():
        raise UserError(
            f"{str(path)!r} is missing, so nobody can tell which pictures were trained on; train again"
        )
    count = len(data.held_out_set)
    kept, known = without(data.held_out_set, Identity.load(path), progress)
    if kept is None:
        raise UserError(
            f"all {count} pictures were trained on, so they say nothing about others; give other --images"
        )
    if known:
        print(f"{known} of {count} pictures were trained on and are left out", file=sys.stderr)
    data.held_out_set = kept
    return data


def unconditional_flow(
    interpreter: Interpreter, data: FeatureData, config: FitConfig, progress: bool = True
) -> ConditionalFlow:
    """A flow of the same transform that is told nothing, trained as the run was."""
    run = replace(config.run, output=None, resume=False, progress=progress, wandb=None)
    return train_flow(
        interpreter.representation,
        interpreter.autoencoder,
        data,
        replace(config, run=run),
        conditional=False,
    )


def draw(
    interpreter: Interpreter, data: FeatureData, result: dict[str, Any], folder: Path, temperature: float
) -> None:
    """Writes the grid and the page of an evaluation.

    Args:
        interpreter: Of the run.
        data: With the pictures kept out.
        result: The numbers.
        folder: To write to.
        temperature: Of the samples.
    """
    images = data.held_out_images(_ROWS)
    samples = interpreter.sample(images, _COLUMNS, temperature, seeded("grid", result["seed"]))
    rows = torch.stack(
        [interpreter.resized(images), interpreter.reconstruct(images), *samples.unbind(1)], dim=1
    ).cpu()
    names = ["picture", "autoencoder", *["sample"] * _COLUMNS]
    save_grid(rows, folder / GRID, column_labels=names)
    numbers = [[each.name, each.text()] for each in lines(result)]
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
