"""Two profiles side by side: the differences of their numbers, with intervals, and their most different pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invariances.evaluation.numbers import finite, write_numbers
from invariances.evaluation.tables import Table, difference
from invariances.recipes.profile import PAGE, ProfileConfig
from invariances.recipes.profile_store import COMPARISON, PROFILE, claimed, read_layer
from invariances.recipes.profile_subjects import profile_runs, runs_in
from invariances.report.compare_page import CompareStory, write_compare_page
from invariances.system.errors import UserError
from invariances.system.files import leaving_nothing

NEEDED = {
    "same",
    "layers_measured",
    "network",
    "pictures_sampled",
    "samples_per_picture",
    "second",
    "seed",
}
"""What a comparison reads of a `profile.json`."""
ROUNDING = 1e-6
"""A difference of a smaller part of the numbers is none."""


@leaving_nothing()
def compare(
    one: str | os.PathLike[str], other: str | os.PathLike[str], output: str | os.PathLike[str] = "comparison"
) -> dict[str, Any]:
    """The differences of two profiles on the same pictures, layer by layer: other − one.

    Layers are paired by name, or in order where no name is shared. The interval is of the difference, by resampling
    the same pictures in both; a difference is `sure` where its interval leaves out 0.

    Args:
        one: Folder of a profile; or of a run, or several of one network, which are profiled below `output` first,
            as the other was where that is a profile.
        other: Folder of another, of the same pictures, samples and seed.
        output: Folder to write `comparison.json` and `index.html` to.

    Raises:
        UserError: A folder holds no profile, or the two do not compare.
    """
    with claimed(output, COMPARISON) as folder:
        config = settings_of([each for each in (one, other) if (Path(each) / PROFILE).is_file()])
        one, other = (
            profiled(each, folder / name, config) for each, name in ((one, "one"), (other, "other"))
        )
        told = [read_profile(each) for each in (one, other)]
        if told[0]["same"] != told[1]["same"]:
            raise UserError(
                f"{str(one)!r} and {str(other)!r} were measured on other pictures, or with other samples; profile both "
                "on the same --images with the same --n, --limit and --seed"
            )
        pairs = paired(told[0]["layers_measured"], told[1]["layers_measured"])
        layers: dict[str, dict[str, Any]] = {}
        pictures: dict[str, tuple[Tensor, Tensor]] = {}
        for first, second in pairs:
            name = first if first == second else f"{first} – {second}"
            found = read_layer(Path(one), first), read_layer(Path(other), second)
            layers[name] = differences(found[0].tables, found[1].tables, told[0]["seed"])
            pictures[name] = found[0].pictures, found[1].pictures
        result = {
            "one": {"folder": str(one), "network": told[0]["network"]},
            "other": {"folder": str(other), "network": told[1]["network"]},
            "pictures_sampled": told[0]["pictures_sampled"],
            "layers": layers,
            "layers_of_one_alone": [
                f"{name} ({side})"
                for side, each, shown in zip(("one", "other"), told, zip(*pairs, strict=True), strict=True)
                for name in each["layers_measured"]
                if name not in shown
            ],
        }
        write_numbers(folder / COMPARISON, result)
        story = CompareStory(finite(result), pictures, most_different_first(pictures))
        write_compare_page(story, folder / PAGE)
        return result


def settings_of(profiles: Sequence[str | os.PathLike[str]]) -> ProfileConfig:
    """How closely a run is looked at: as the profile that it is held against was, where there is one."""
    if not profiles:
        return ProfileConfig()
    told = read_profile(profiles[0])
    return ProfileConfig(
        n=told["samples_per_picture"],
        limit=told["pictures_sampled"],
        second=told["second"],
        seed=told["seed"],
    )


def profiled(place: str | os.PathLike[str], output: Path, config: ProfileConfig) -> Path:
    """The folder of a profile: the one that is given, or that which is made of a run's."""
    folder = Path(place)
    if not (folder / PROFILE).is_file() and runs_in(folder):
        profile_runs(folder, output, config=config)
        return output
    return folder


def read_profile(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The `profile.json` of a folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = Path(folder) / PROFILE
    if not path.is_file():
        raise UserError(f"folder {str(folder)!r} holds no {PROFILE}; make one with `invariances profile`")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not NEEDED.issubset(found):
        raise UserError(f"{str(path)!r} is damaged or of another version; profile again")
    return found


def paired(one: list[str], other: list[str]) -> list[tuple[str, str]]:
    """Which layers are compared.

    Raises:
        UserError: No name is shared, and the numbers of layers differ.
    """
    shared = [(name, name) for name in one if name in other]
    if shared:
        return shared
    if len(one) != len(other):
        raise UserError(
            f"the profiles share no layer, and have {len(one)} and {len(other)}; profile as many of both"
        )
    return list(zip(one, other, strict=True))


def differences(one: Mapping[str, Table], other: Mapping[str, Table], seed: int) -> dict[str, Any]:
    """By number: both values, their difference, intervals, and whether it is sure; information below 0 never is."""
    found: dict[str, Any] = {}
    for name in one:
        if name not in other or name.startswith(("at ", "readable ")):
            continue
        apart = difference(one[name], other[name], seed)
        low, high = apart.get("difference_interval", (0.0, 0.0))
        told = one[name].told("one", seed) | other[name].told("other", seed)
        values = [told["one"] or 0.0, told["other"] or 0.0]
        rounding = ROUNDING * max(1.0, *map(abs, values))
        says = name != "information" or min(values) >= 0
        found[name] = {**told, **apart, "sure": says and (low > rounding or high < -rounding)}
    return found


def most_different_first(pictures: Mapping[str, tuple[Tensor, Tensor]]) -> list[int]:
    """The pictures in order of how much their samples of the same v differ, mean over layers and pixels."""
    total: Tensor | None = None
    for one, other in pictures.values():
        columns = min(one.shape[1], other.shape[1])
        if one.shape[2:] != other.shape[2:]:
            continue
        apart = (one[:, 2:columns].float() - other[:, 2:columns].float()).abs().flatten(1).mean(dim=1)
        total = apart if total is None else total + apart
    count = len(next(iter(pictures.values()))[0])
    return list(range(count)) if total is None else torch.argsort(total, descending=True).tolist()
