"""The flow in a run's folder, and the names of what else lies there."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from invariances.flow.flow import ConditionalFlow
from invariances.flow.layered import LayeredFlow
from invariances.system.errors import UserError
from invariances.system.weights import read_state_dict
from invariances.zoo.interpreters import find_offer, knows, load_flow

CONFIG = "config.yaml"
WEIGHTS = "interpreter.safetensors"
AUTOENCODER = "autoencoder.safetensors"
LAST = "checkpoints/last.ckpt"
PREFIX = "flow."
"""Of the flow's tensors in `WEIGHTS`."""


def is_name(source: str | os.PathLike[str]) -> bool:
    """A registered name, where no run's folder of that name is at hand."""
    return isinstance(source, str) and knows(source) and not (Path(source) / WEIGHTS).exists()


def read_run(folder: Path) -> tuple[ConditionalFlow | LayeredFlow, dict[str, str]]:
    """The flow of a run, and what its file says of network and autoencoder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"folder {str(folder)!r} does not exist; give the folder of a run of `invariances fit`, or a name that "
            "`invariances models list` shows"
        )
    path = folder / WEIGHTS
    if not path.exists():
        hint = f"; finish it with `{resume_command(folder)}`" if (folder / LAST).exists() else ""
        raise UserError(f"folder {str(folder)!r} holds no {WEIGHTS}, so no finished run{hint}")
    state, metadata = read_state_dict(path)
    if metadata.get("kind") != "interpreter":
        raise UserError(f"{str(path)!r} was not written by `invariances fit`; give the folder of a run")
    try:
        spec = json.loads(metadata["flow"])
        kind = LayeredFlow if "layers" in spec else ConditionalFlow
        flow = kind.restored(spec, {key.removeprefix(PREFIX): each for key, each in state.items()})
    except (KeyError, AttributeError, TypeError, json.JSONDecodeError):
        raise UserError(f"{str(path)!r} does not say what its flow is like; train again") from None
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be used: {error}") from None
    missing = {"representation", "network_fingerprint", "autoencoder", "autoencoder_fingerprint"} - set(
        metadata
    )
    if missing:
        raise UserError(f"{str(path)!r} is damaged: it does not say its {min(missing)}; train again")
    return flow, metadata


def flow_of(source: str | os.PathLike[str], layer: str | None = None) -> ConditionalFlow:
    """The flow alone, of a run's folder or of a published or shipped name.

    Raises:
        UserError: There is none, or it is damaged.
    """
    named = is_name(source)
    found = load_flow(find_offer(os.fspath(source), layer))[0] if named else read_run(Path(source))[0]
    return found.at(layer or next(iter(found.layers))) if isinstance(found, LayeredFlow) else found


def resume_command(folder: str | os.PathLike[str]) -> str:
    """The words to type to go on with the run in `folder`."""
    config = shlex.quote(str(Path(folder) / CONFIG))
    return f"invariances fit -c {config} --resume"
