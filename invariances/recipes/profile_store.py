"""What a profile keeps in its folder: per layer the tables, pictures and maps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from invariances.evaluation.profiling import LayerProfile
from invariances.evaluation.tables import Table, load_tables, save_tables
from invariances.system.errors import UserError
from invariances.system.files import atomic, check_writable
from invariances.system.weights import read_state_dict
from invariances.training.run_folder import alone

TABLES, PICTURES, BEGUN = "tables", "pictures", "begun.json"
PROFILE, COMPARISON, CURVES = "profile.json", "comparison.json", "training.json"
RESULTS = {PROFILE: "a profile", COMPARISON: "a comparison", CURVES: "profiles of checkpoints"}
"""The numbers beside a page, and what they are of."""


def digest_of(text: str) -> str:
    """A short hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def claimed(output: str | os.PathLike[str], result: str) -> Iterator[Path]:
    """The folder, to which this process alone writes, and where no page of another kind is lost.

    Args:
        output: The folder, which is made.
        result: One of `RESULTS`, which is to lie there.

    Raises:
        UserError: It cannot be written to, holds another kind of result, or another process works in it.
    """
    folder = Path(output)
    check_writable(folder)
    for name, what in RESULTS.items():
        if name != result and (folder / name).is_file():
            raise UserError(f"folder {str(folder)!r} holds {what}; choose another --output")
    with alone(folder):
        yield folder


def begin(folder: Path, about: Mapping[str, str]) -> None:
    """Notes what a profile is of, so that one that goes on is of the same.

    Raises:
        UserError: The folder holds a profile of something else.
    """
    path = folder / BEGUN
    if not path.is_file():
        with atomic(path) as draft:
            draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        found = {}
    other = [name for name in about if found.get(name) != about[name]]
    if other:
        raise UserError(
            f"folder {str(folder)!r} holds a profile that differs in {', '.join(other)}; choose another --output"
        )


def write_layer(folder: Path, layer: str, key: str, found: LayerProfile) -> None:
    """Keeps what was found of a layer, with what it depends on."""
    from safetensors.torch import save_file

    path = _place(folder, PICTURES, layer)
    with atomic(path) as draft:
        own, mean = found.maps
        tensors = {"pictures": found.pictures, "maps": own.float(), "map": mean.float()}
        save_file({name: each.contiguous() for name, each in tensors.items()}, draft)
    marked = {**found.tables, f"key {digest_of(key)}": Table(torch.zeros(1, 1))}
    save_tables(marked, _place(folder, TABLES, layer))


def known_layer(folder: Path, layer: str, key: str) -> LayerProfile | None:
    """What is kept of a layer, where it depends on the same; None else."""
    path = _place(folder, TABLES, layer)
    if not path.is_file():
        return None
    try:
        tables = load_tables(path)
        state, _ = read_state_dict(_place(folder, PICTURES, layer))
    except UserError:
        return None
    if f"key {digest_of(key)}" not in tables:
        return None
    return _profile(tables, state)


def read_layer(folder: Path, layer: str) -> LayerProfile:
    """What was found of one layer of a finished profile.

    Raises:
        UserError: It is missing or damaged.
    """
    tables = load_tables(_place(folder, TABLES, layer))
    state, _ = read_state_dict(_place(folder, PICTURES, layer))
    try:
        return _profile(tables, state)
    except KeyError:
        raise UserError(f"the pictures of {str(folder)!r} are damaged; profile again") from None


def _profile(tables: Mapping[str, Table], state: Mapping[str, Tensor]) -> LayerProfile:
    own = {name: table for name, table in tables.items() if not name.startswith("key ")}
    return LayerProfile(own, state["pictures"], (state["maps"], state["map"]))


def _place(folder: Path, kind: str, layer: str) -> Path:
    return folder / kind / f"{layer.replace('#', '_').replace('/', '_')}.safetensors"
