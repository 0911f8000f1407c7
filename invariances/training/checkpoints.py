"""Training checkpoints: written so that a crash leaves the last one whole, read so that no code can run."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.zoo.runs import LAST

BEST = "best.ckpt"


def series_name(step: int | str) -> str:
    """The file's name of a checkpoint of a series."""
    return f"step_{step:07d}.ckpt" if isinstance(step, int) else f"step_{step}.ckpt"


def also_as(path: Path, other: Path) -> None:
    """Gives a file another name, or copies it where the file system has no hard links."""
    draft = other.with_suffix(".link")
    draft.unlink(missing_ok=True)
    try:
        os.link(path, draft)
    except OSError:
        shutil.copyfile(path, draft)
    draft.replace(other)


def checkpoint_of(folder: str | os.PathLike[str], which: str) -> Path:
    """A run's checkpoint.

    Args:
        folder: Of the run.
        which: A file, a step of the series, "best" or "last".

    Raises:
        UserError: There is none; names those that are there.
    """
    place = (Path(folder) / LAST).parent
    inside = {"last": place / "last.ckpt", "best": place / BEST}
    path = inside.get(which, Path(which))
    if which.isdigit():
        path = place / series_name(int(which))
    if path.is_file():
        return path
    there = sorted(each.name for each in place.glob("*.ckpt"))
    raise UserError(
        f"checkpoint {which!r} does not exist; {str(place)!r} holds {', '.join(there) or 'none'} (a run keeps a series "
        "with --run.keep_checkpoints)"
    )


def weights_in(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The flow's weights in a training checkpoint: the moving average where there is one.

    Raises:
        UserError: It is of another stage.
    """
    stage = checkpoint["invariances"].get("stage")
    if stage != "flow":
        raise UserError(
            f"the checkpoint is of the stage {stage!r}, before there was a flow; give a later one"
        )
    averaged: Mapping[str, Any] = checkpoint.get("callbacks", {}).get("Averaging", {})
    if averaged:
        found = {key: each for key, each in averaged.items() if key.startswith("module.")}
        return {key.removeprefix("module."): each for key, each in found.items()}
    state: Mapping[str, Tensor] = checkpoint["state_dict"]
    return {key.removeprefix("learner."): each for key, each in state.items()}


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """A training checkpoint, tensors and plain values alone.

    Raises:
        UserError: The file is missing, truncated, no checkpoint, or a pickle that would run code.
    """
    name = f"checkpoint {str(path)!r}"
    if not Path(path).is_file():
        raise UserError(f"{name} does not exist; a run keeps its last one in {LAST}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{name} is truncated or no checkpoint; go on from an older one, or start again")
    try:
        with zipfile.ZipFile(path) as parts:
            torn = parts.testzip()
        if torn is not None:
            raise OSError(f"{torn!r} has other bytes than were written")
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{name} holds Python objects, which could run code; it is not loaded") from None
    except Exception as error:  # whatever broken bytes lead the unpickler to
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} is damaged ({said}); go on from an older one") from None
    if not isinstance(checkpoint, dict) or "invariances" not in checkpoint:
        raise UserError(f"{name} was not written by `invariances fit`; give a run's {LAST}")
    return checkpoint


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoint files, written atomically and read without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write `checkpoint`; the file of that name stays whole until the new one is on the disk."""
        with atomic(path) as draft, open(draft, "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `load_checkpoint` of this module; never with code, whatever `weights_only` says."""
        return load_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)
