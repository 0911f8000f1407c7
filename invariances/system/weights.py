"""Weights from a file into a network: safetensors or torch checkpoints, and nothing that would run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError
from invariances.system.state_names import beside, renamed

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "teacher",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "ema",
    "params_ema",
    "params",
    "weights",
    "backbone",
    "encoder",
    "student",
)
"""Under which keys a checkpoint may hold its state dict; the first that is there."""

_MOST_MISSHAPED = 4


class Filled(NamedTuple):
    """A module with weights, the file's metadata, and the weights that the file lacks: they are NaN."""

    module: nn.Module
    metadata: dict[str, str]
    lacking: tuple[str, ...]


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
        if "TorchScript" in str(error):
            raise UserError(
                f"{str(path)!r} is a TorchScript module; save the state_dict() of the nn.Module that it was made from"
            ) from None
        raise _broken(path) from error
    return state_dict_in(loaded, f"{str(path)!r}"), {}


def weights_hash(about: str, state: Mapping[str, Tensor]) -> str:
    """A hash of weights and of words about their architecture."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


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


def state_dict_in(loaded: Any, source: str) -> dict[str, Tensor]:
    """The tensors by name in what a checkpoint holds, from below its containers.

    Raises:
        UserError: there are none; says which keys there are.
    """
    outer = loaded
    while isinstance(loaded, Mapping):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        inner = [key for key in _CONTAINERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            if tensors:
                return tensors
            break
        if len(inner) > 1:
            rest = ", ".join(map(repr, inner[1:]))
            print(f"{source}: took {inner[0]!r}; {rest} would be there too", file=sys.stderr)
        loaded = loaded[inner[0]]
    keys = (
        _listed([str(key) for key in outer], "keys") if isinstance(outer, Mapping) else type(outer).__name__
    )
    raise UserError(f"{source} holds no state dict ({keys or 'nothing'}); save the network's state_dict().")


def load_weights(
    module: nn.Module,
    path: str | os.PathLike[str],
    title: str,
    rebuild: Callable[[int], nn.Module] | None = None,
) -> Filled:
    """The module with the weights of a file.

    Prefixes that wrappers and trainers leave (`module.`, `model._orig_mod.`, `encoder_q.`, …) are taken off; entries
    outside of the prefix, such as a loss beside the model, are left out. Where only the number of classes differs,
    `rebuild(classes)` gives the module. Some of the network's weights may be missing, such as those of its head: they
    become NaN, so that nothing that needs them goes unseen. What was done is said on stderr.

    Raises:
        UserError: for files that cannot be read (see `read_state_dict`) or that hold another architecture.
    """
    state, metadata = read_state_dict(path)
    filled = fit_weights(module, state, f"{str(Path(path))!r}", title, rebuild)
    return filled._replace(metadata=metadata)


def fit_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    title: str,
    rebuild: Callable[[int], nn.Module] | None = None,
) -> Filled:
    """`load_weights` for a state dict that is there already; `source` names it in errors."""
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    named, said, outside = renamed(state, own, source)
    misshaped = [name for name in own if name in named and named[name].shape != own[name].shape]
    classes = {named[name].shape[0] for name in misshaped if _same_but_rows(named[name], own[name])}
    few = len(misshaped) <= _MOST_MISSHAPED
    if rebuild is not None and len(classes) == 1 and few:
        resized = rebuild(*classes)
        if all(
            named[name].shape == value.shape for name, value in resized.state_dict().items() if name in named
        ):
            return fit_weights(resized, state, source, title)
    missing = [name for name in own if name not in named and not name.endswith("num_batches_tracked")]
    other_heads = few and all(_same_but_rows(named[name], own[name]) for name in misshaped)
    lacking = [*missing, *(misshaped if other_heads else [])]
    unplaced = [name for name in named if name not in own]
    unexpected = [name for name in unplaced if not beside(name, own, lacking)]
    if unexpected or len(lacking) > len(own) / 2 or (misshaped and not other_heads):
        shapes = [f"{n} {tuple(named[n].shape)} instead of {tuple(own[n].shape)}" for n in misshaped]
        parts = [_listed(missing, "missing"), _listed(unplaced, "unexpected"), _listed(shapes, "misshaped")]
        raise UserError(
            f"{source} does not fit {title}, it is of another architecture: "
            f"{'; '.join(part for part in parts if part)}; name the network that it was made of."
        )
    used = {name: named[name].to(own[name].dtype) for name in own if name in named and name not in lacking}
    try:
        module.load_state_dict(used, strict=False)  # names and shapes were compared above
    except Exception as error:  # modules may load their entries in ways of their own
        raise UserError(f"{source} cannot be loaded into {title}: {error}") from error
    said += [_listed([*outside, *unplaced], "entries left out")] if outside or unplaced else []
    unknown = _forget(own, lacking, used)
    if unknown:
        said.append(f"{_listed(unknown, 'missing')}, so layers that need them cannot be studied")
    if said:
        print(f"{source}: {'; '.join(said)}", file=sys.stderr)
    return Filled(module, {}, tuple(unknown))


def _forget(own: Mapping[str, Tensor], lacking: Sequence[str], used: Mapping[str, Tensor]) -> list[str]:
    """Fills with NaN what a file lacks and a network would make up; gives its names.

    Whole numbers, such as tables of positions, are part of the architecture; tied weights came under another name.
    """
    there = {own[name].data_ptr() for name in used}
    unknown = [
        name for name in lacking if own[name].is_floating_point() and own[name].data_ptr() not in there
    ]
    with torch.no_grad():
        for name in unknown:
            own[name].fill_(float("nan"))
    return unknown


def _same_but_rows(mine: Tensor, theirs: Tensor) -> bool:
    return mine.dim() == theirs.dim() > 0 and mine.shape[1:] == theirs.shape[1:]


def _listed(names: Sequence[str], what: str, shown: int = 4) -> str:
    more = ", …" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""
