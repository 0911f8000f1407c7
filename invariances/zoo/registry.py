"""The registry of models: `registry.json` says where each comes from and what it is."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invariances.system.errors import UserError, nearest

if TYPE_CHECKING:
    from invariances.data.download import Told

KINDS = ("interpreter", "flow", "autoencoder", "generator", "classifier", "perceptual", "reader")


@cache
def registry() -> dict[str, dict[str, Any]]:
    """Name -> entry, in order: kind, title, address, md5 (or the start of sha256), size, file, architecture."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = json.loads(text)
    return entries


def names(kind: str | None = None) -> list[str]:
    """Registered names, all or of one kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind {kind!r} is unknown; the kinds are {nearest(kind, KINDS)}.")
    return [name for name, each in registry().items() if kind in (None, each["kind"])]


def entry(name: str) -> dict[str, Any]:
    """What is registered under a name, with the name itself.

    Raises:
        UserError: the name is unknown; names the nearest.
    """
    if name not in registry():
        raise UserError(
            f"model {name!r} is unknown; the nearest names are {nearest(name, registry())}; "
            "`invariances models list` shows all."
        )
    return {"name": name, **registry()[name]}


def path(name: str) -> Path:
    """Where the model's file is, or would be after a download."""
    found = entry(name)
    if "package" in found:
        return Path(__file__).parent / str(found["package"])
    from invariances.system.files import cache_folder

    return cache_folder() / str(found["file"])


def fetch(name: str, progress: bool | Told = True) -> Path:
    """The model's file, downloaded if it is not there, and verified once; `progress` as of `download`.

    Raises:
        UserError: it cannot be had; says which file, with which checksum, to put where by hand.
    """
    found = entry(name)
    target = path(name)
    if "package" in found:
        if not target.is_file():
            raise UserError(
                f"{name} should come with the package and is not at {target}; install again, or run "
                f"`invariances models build {name}`."
            )
        return target
    from invariances.data.download import download

    return download(
        found["address"],
        target,
        md5=found.get("md5"),
        sha256=found.get("sha256"),
        size=found.get("size"),
        progress=progress,
    )
