"""A run's folder: the names in it, and files that are either whole or absent."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError

CONFIG = "config.yaml"
WEIGHTS = "interpreter.safetensors"
AUTOENCODER = "autoencoder.safetensors"
METRICS = "metrics.csv"
SAMPLES = "samples"
LAST = "checkpoints/last.ckpt"
EVALUATION = "evaluation.json"
_UMASK = os.umask(0)
os.umask(_UMASK)


class Stopped(Exception):
    """Training was asked to stop by a signal, and saved itself.

    Attributes:
        checkpoint: The file to go on from; None where the run keeps no folder.
        step: Steps done.
        signum: The signal.
    """

    def __init__(self, checkpoint: Path | None, step: int, signum: int) -> None:
        kept = f"; kept in {checkpoint}" if checkpoint else ""
        super().__init__(f"stopped after step {step}{kept}")
        self.checkpoint, self.step, self.signum = checkpoint, step, signum


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` that takes its place once written: `path` is at every moment the old file or the new.

    The draft reaches the disk before it is renamed; it is removed where the block raises. The file gets the usual
    permissions, whatever wrote it (safetensors alone would keep it from everybody else).

    Raises:
        UserError: The folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"folder {str(path.parent)!r} cannot be made ({error.strerror}); choose another"
        ) from None
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        yield draft
        draft.chmod(0o666 & ~_UMASK)
        _reach_disk(draft)
        os.replace(draft, path)
        with suppress(OSError):
            _reach_disk(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _reach_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Makes `folder`, and proves now, not after hours, that it can be written to.

    Raises:
        UserError: It cannot.
    """
    folder = Path(folder)
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"folder {str(folder)!r} cannot be written to ({error.strerror}); choose another --output"
        ) from None


def write_config(folder: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """A run's config.yaml, ready for `invariances fit -c`; names that only Python knew are null."""
    import yaml

    path = Path(folder) / CONFIG
    header = f"# Train again: invariances fit -c {shlex.quote(str(path))} --output ANOTHER_FOLDER\n"
    if None in (config["model"]["network"], config["model"]["autoencoder"], config["data"]["images"]):
        header += (
            "# Trained in Python: what is null was given as an object; name it, or a file, to train again.\n"
        )
    with atomic(path) as draft:
        draft.write_text(header + yaml.safe_dump(config, sort_keys=False))


def resume_command(folder: str | os.PathLike[str]) -> str:
    """The words to type to go on with the run in `folder`."""
    folder = Path(folder)
    config, last = shlex.quote(str(folder / CONFIG)), shlex.quote(str(folder / LAST))
    return f"invariances fit -c {config} --ckpt_path {last}"
