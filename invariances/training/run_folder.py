"""A run's folder: config.yaml, the pictures it was trained on, metrics, grids, checkpoints; one writer at a time."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from invariances.data.identity import Identity, overlap
from invariances.system.errors import UserError
from invariances.system.files import LOCK, atomic, check_writable
from invariances.system.yaml_file import read_yaml
from invariances.training.checkpoints import load_checkpoint
from invariances.training.config import FitConfig, RunConfig, config_parser, instantiated
from invariances.training.processes import first_process
from invariances.training.stages import check_same
from invariances.zoo.runs import CONFIG, LAST, resume_command

METRICS = "metrics.csv"
SAMPLES = "samples"
TRAINED_ON, KEPT_OUT = "pictures/trained_on.json.gz", "pictures/kept_out.json.gz"


def name_of(run: RunConfig, network: str, layer: str) -> str:
    """The run's name."""
    return _filled(run.name, network, layer)


def _filled(pattern: str, network: str, layer: str) -> str:
    return pattern.replace("{network}", network).replace("{layer}", layer.replace("#", "_"))


def choose_folder(run: RunConfig, network: str, layer: str, numbered: bool) -> Path | None:
    """The run's folder: new, unless it is to be gone on with; None where nothing is kept.

    Args:
        run: Says where.
        network: For `{network}` in names.
        layer: For `{layer}` in names.
        numbered: Add a number where the folder is taken, instead of refusing; a debug run always does.

    Raises:
        UserError: The folder holds a run already, or none to go on with, or cannot be written to.
    """
    if run.output is None:
        return None
    name = name_of(run, network, layer)
    wanted = Path(_filled(run.output, network, layer).replace("{name}", name))
    if not first_process():
        return wanted
    if run.resume:
        if not os.path.isfile(wanted / CONFIG):
            raise UserError(
                f"folder {str(wanted)!r} holds no run to go on with; leave out --resume to start one"
            )
        check_writable(wanted)
        return wanted
    folder, number = wanted, 1
    while any(os.path.exists(folder / each) for each in (CONFIG, LAST)):
        if not (numbered or run.debug_run):
            raise UserError(
                f"folder {str(folder)!r} holds a run already; go on with `{resume_command(folder)}`, "
                "or choose another --output"
            )
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    check_writable(folder)
    print(f"run: {folder}", file=sys.stderr)
    return folder


@contextmanager
def alone(folder: Path | None) -> Iterator[None]:
    """Nobody else writes to this run meanwhile; the system frees the lock of a process that dies.

    Raises:
        UserError: Somebody does.
    """
    if folder is None:
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process works in {str(folder)!r}; wait for it, or choose another --output"
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def write_config(folder: Path, config: FitConfig) -> None:
    """The run's complete config.yaml, ready for `invariances fit -c`; what only Python knew is null."""
    path = folder / CONFIG
    header = f"# Train again: invariances fit -c {shlex.quote(str(path))} --output ANOTHER_FOLDER\n"
    if None in (config.network, config.autoencoder, config.data.images):
        header += (
            "# Trained in Python: what is null was given as an object; name it, or a file, to train again.\n"
        )
    config = replace(config, run=replace(config.run, output=str(folder), resume=False))
    with atomic(path) as draft:
        draft.write_text(header + yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")


def begin(
    folder: Path,
    config: FitConfig,
    pictures: Sequence[Identity],
    about: Mapping[str, Any],
    checkpoints: Sequence[str],
) -> dict[str, Any] | None:
    """Writes what a run is, before it trains: its config.yaml, and which pictures it learns from and keeps out.

    Args:
        folder: Of the run.
        config: Of the run.
        pictures: Learnt from, and kept out; says how many are both.
        about: What a checkpoint must be of, to be gone on with.
        checkpoints: Names of those that a resumed run may go on from, the later ones first.

    Returns:
        The checkpoint that a resumed run goes on from, where there is one.

    Raises:
        UserError: The folder's run is another; nothing of it is written over.
    """
    last = next((folder / each for each in checkpoints if (folder / each).exists()), None)
    found = load_checkpoint(last) if config.run.resume and last is not None else None
    if found is not None:
        check_same(found["invariances"], about)
    write_config(folder, config)
    for each, name in zip(pictures, (TRAINED_ON, KEPT_OUT)):
        each.save(folder / name)
    if both := len(overlap(*pictures)):
        print(
            f"{both} of {len(pictures[1].names)} pictures held out are also trained on, so held-out losses are too "
            "low; evaluate leaves them out",
            file=sys.stderr,
        )
    return found


def read_config(folder: str | os.PathLike[str]) -> FitConfig:
    """The settings of a run.

    Raises:
        UserError: There are none, or the file is damaged or of an older version.
    """
    path = Path(folder) / CONFIG
    advice = "give the folder of a run of `invariances fit`"
    if not Path(folder).is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist; {advice}")
    if not path.is_file():
        raise UserError(f"folder {str(folder)!r} holds no {CONFIG}; {advice}")
    found = read_yaml(path)
    if isinstance(found, dict) and "model" in found:
        raise UserError(f"{str(path)!r} was written by an older version of invariances; train again")
    return typed(found, str(path))


def typed(values: Any, name: str) -> FitConfig:
    """The configuration in plain values.

    Raises:
        UserError: They are no configuration; says where.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name!r} is not a run's config; give the folder of a run of `invariances fit`")
    for section in ("flow", "data", "learning", "cache", "run"):
        if not isinstance(values.get(section, {}), dict):
            raise UserError(
                f"{name!r} cannot be used: {section} is {values[section]!r}, and holds no settings"
            )
    parser = config_parser(FitConfig)
    try:
        return instantiated(parser, parser.parse_object(values))
    except UserError as error:
        raise UserError(f"{name!r} cannot be used: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError, SystemExit, Exception) as error:
        if isinstance(error, (KeyboardInterrupt, MemoryError)):
            raise
        raise UserError(f"{name!r} is not a run's config: {' '.join(str(error).split())[:300]}") from None
