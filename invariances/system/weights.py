"""Weights from a file into a network: safetensors or torch checkpoints, and nothing that would run code."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
_PREFIXES = ("", "module.", "model.", "_orig_mod.", "module.model.", "model.module.", "network.", "net.")
_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def read_state_dict(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file or torch checkpoint by name, and the metadata (empty for a checkpoint).

    A checkpoint may hold them under `state_dict`, `model` and the like. Only tensors and plain containers are read.

    Raises:
        UserError: for a file that is missing, truncated, no checkpoint, or would run code when loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"the weights {str(path)!r} are not there; give the path of a safetensors file or checkpoint."
        )
    with path.open("rb") as file:
        head = file.read(9)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise UserError(
                f"{str(path)!r} is a pickle that would run code when loaded, so it was not loaded; save the network's "
                "state_dict() alone, best as safetensors."
            ) from error
        raise _broken(path) from error
    except Exception as error:  # whatever broken bytes lead the unpickler to
        raise _broken(path) from error
    return _tensors(loaded, path), {}


def _broken(path: Path) -> UserError:
    return UserError(
        f"{str(path)!r} ({path.stat().st_size:,} bytes) is truncated or no checkpoint; fetch or save it again."
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _broken(path) from error


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            if tensors:
                return tensors
            break
        loaded = inner
    raise UserError(f"{str(path)!r} holds no state dict; save the network's state_dict().")


def load_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    title: str,
    rebuild: Callable[[int], nn.Module] | None = None,
) -> tuple[nn.Module, dict[str, str]]:
    """The module with the weights of a file, strictly, and the file's metadata.

    Prefixes that wrappers leave (`module.`, `model.`, …) are taken off; entries outside of the prefix, such as a loss
    beside the model, are left out. Where only the number of classes differs, `rebuild(classes)` gives the module.

    Raises:
        UserError: for files that cannot be read (see `read_state_dict`) or that hold another architecture.
    """
    state, metadata = read_state_dict(path)
    return fit_weights(module, state, f"{str(Path(path))!r}", title, rebuild), metadata


def fit_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    title: str,
    rebuild: Callable[[int], nn.Module] | None = None,
) -> nn.Module:
    """`load_weights` for a state dict that is there already; `source` names it in errors."""
    own = module.state_dict()
    state = _renamed(state, own)
    misshaped = [name for name in own if name in state and state[name].shape != own[name].shape]
    classes = {state[name].shape[0] for name in misshaped if _same_but_rows(state[name], own[name])}
    if rebuild is not None and len(classes) == 1 and len(misshaped) <= 4:
        resized = rebuild(*classes)
        if all(
            state[name].shape == value.shape for name, value in resized.state_dict().items() if name in state
        ):
            return fit_weights(resized, state, source, title)
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    if missing or unexpected or misshaped:
        shapes = [f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}" for n in misshaped]
        parts = [
            _listed(missing, "missing"),
            _listed(unexpected, "unexpected"),
            _listed(shapes, "misshaped"),
        ]
        raise UserError(
            f"{source} does not fit {title}, it is of another architecture: "
            f"{'; '.join(part for part in parts if part)}."
        )
    floats = {name: value.to(own[name].dtype) for name, value in state.items()}
    module.load_state_dict(floats, strict=False)  # names and shapes were compared above
    return module


def _renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the prefix that makes most names fit, and with the names torchvision's DenseNets have now."""

    def stripped(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

    best = max(map(stripped, _PREFIXES), key=lambda names: len(own.keys() & names.keys()))
    modern = {_DENSENET.sub(r"\1\2", name): value for name, value in best.items()}
    return modern if len(own.keys() & modern.keys()) > len(own.keys() & best.keys()) else best


def _same_but_rows(mine: Tensor, theirs: Tensor) -> bool:
    return mine.dim() == theirs.dim() > 0 and mine.shape[1:] == theirs.shape[1:]


def _listed(names: list[str], what: str, shown: int = 4) -> str:
    more = ", …" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""
