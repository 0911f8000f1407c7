"""A network while it trains: the same profile of each of its checkpoints, and one page of curves."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from invariances.evaluation.numbers import finite, write_numbers
from invariances.recipes.profile import PAGE, ProfileConfig, profile
from invariances.recipes.profile_store import CURVES, claimed
from invariances.recipes.profile_subjects import DRAWN, drawn_pictures
from invariances.recipes.shapes_flows import AUTOENCODER
from invariances.recipes.worlds import layers_worth_seeing
from invariances.report.training_page import write_training_page
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import leaving_nothing
from invariances.training.data import Images
from invariances.zoo.registry import registry


def checkpoints_of(pattern: str) -> list[Path]:
    """The files of a pattern, in order of the numbers in their names: step_20 before step_100.

    Raises:
        UserError: There are fewer than two, or two of one name.
    """
    found = sorted((Path(each) for each in glob.glob(pattern, recursive=True)), key=_order)
    found = [each for each in found if not each.is_dir()]
    if not found:
        raise UserError(f"{pattern!r} names no file; give a pattern in quotes, such as 'checkpoints/*.pt'")
    if len(found) < 2:
        raise UserError(
            f"{pattern!r} names one file alone; over training there are two checkpoints at least, and one is profiled "
            "with --weights"
        )
    if len({each.stem for each in found}) < len(found):
        raise UserError(
            f"{pattern!r} names several files of one name; put each checkpoint under a name of its own"
        )
    return found


def _order(path: Path) -> list[Any]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def profile_training_named(
    network: str,
    layers: Sequence[str] | None,
    sources: tuple[str | None, str | None, str | None],
    pattern: str,
    output: str | Path,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """`profile_training` of what the words of a command name.

    Args:
        network: Its name.
        layers: From the input to the output; by default some along the way.
        sources: Autoencoder, pictures, and pictures to keep out; None for those of drawn pictures.
        pattern: Of the checkpoints.
        output: Folder to write to.
        config: As of `profile`.
    """
    files = checkpoints_of(pattern)
    chosen = list(layers) if layers else layers_worth_seeing(Representation.layers(_whole(network, files[0])))
    autoencoder, images, held_out = sources
    sets: Any = drawn_pictures(config.seed) if images in (None, DRAWN) else (images, held_out)
    code = autoencoder or AUTOENCODER
    result = profile_training(network, chosen, code, sets[0], files, output, held_out=sets[1], config=config)
    print(f"page: {Path(output) / PAGE}", file=sys.stderr)
    return result


def _whole(network: str, path: Path) -> str:
    """The network's name, or the file: our own classifiers are files of whole networks, and take no others' weights."""
    return str(path) if "package" in registry().get(network, {}) else network


def _source(network: str, path: Path, layer: str) -> tuple[str, str, str | None]:
    """What a `Representation` is made of."""
    whole = _whole(network, path)
    return whole, layer, None if whole == str(path) else str(path)


@leaving_nothing()
def profile_training(
    network: str,
    layers: Sequence[str],
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    checkpoints: Sequence[Path],
    output: str | os.PathLike[str] = "training",
    *,
    held_out: Images | None = None,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """Profiles each checkpoint below `output`, and writes `training.json` and a page of curves.

    A stopped one goes on. The flow that is told nothing is trained once, as it knows no network. All checkpoints are
    read before anything is trained.

    Args:
        network: Name of the network that the checkpoints are weights of.
        layers: As of `profile`.
        autoencoder: As of `profile`.
        images: As of `profile`.
        checkpoints: Files, from the first to the last.
        output: Folder to write to.
        held_out: As of `profile`.
        config: As of `profile`.

    Raises:
        UserError: As `profile`; a checkpoint is damaged, or of another network.
    """
    found: dict[str, Any] = {}
    with claimed(output, CURVES) as folder:
        for path in checkpoints:
            whole = Representation(*_source(network, path, layers[0]))
            for layer in layers:
                whole.at(layer)
        for number, path in enumerate(checkpoints):
            print(f"checkpoint {number + 1} of {len(checkpoints)}: {path}", file=sys.stderr)
            place = folder / path.stem
            cut = Representation(*_source(network, path, layers[0]))
            found[path.stem] = profile(
                cut, layers, autoencoder, images, place, held_out=held_out, config=config
            )
        result = {
            "checkpoints": list(found),
            "layers": {
                layer: {name: each["layers"][layer] for name, each in found.items()} for layer in layers
            },
        }
        write_numbers(folder / CURVES, result)
        write_training_page(finite(result), folder / PAGE)
        return result
