"""The weights that torchvision publishes, by the enums that name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invariances.representation.network import UNTRAINED, short
from invariances.system.errors import UserError
from invariances.system.files import offline

_ENUM = re.compile(r"(\w+_Weights)\.(\w+)")


def published_entry(weights: str, name: str | None = None) -> Any:
    """The member of a torchvision weights enum that the words name, or None.

    Args:
        weights: "IMAGENET1K_V2" or "DEFAULT", where the network is known, or "ResNet50_Weights.IMAGENET1K_V2".
        name: of the network.

    Raises:
        UserError: the enum is another network's, or has no such member.
    """
    from torchvision import models

    own = models.get_model_weights(name) if name else None
    written = _ENUM.fullmatch(weights)
    if not written or Path(weights).is_file():
        return own.__members__.get(weights) if own else None
    found = own if own and own.__name__ == written[1] else None
    if found is None:
        every = {models.get_model_weights(each).__name__: each for each in models.list_models()}
        if written[1] not in every:
            raise UserError(f"torchvision has no weights {weights!r}; give the path of a file")
        if own:
            raise UserError(
                f"{weights} belongs to {every[written[1]]}, not to {name}; "
                f"{name} has {', '.join(f'{own.__name__}.{each}' for each in own.__members__)}"
            )
        found = models.get_model_weights(every[written[1]])
    if written[2] not in found.__members__:
        members = ", ".join(f"{found.__name__}.{each}" for each in found.__members__)
        raise UserError(f"torchvision has no weights {weights!r}; it has {members}")
    return found.__members__[written[2]]


def fetched(entry: Any, name: str) -> Mapping[str, Tensor]:
    """The state dict of published weights, downloaded once.

    Raises:
        UserError: it cannot be had.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / entry.url.rsplit("/", 1)[-1]
    advice = f"put {entry.url} into {str(folder)!r} by hand, or pass weights=PATH (or {UNTRAINED!r})"
    if offline() and not file.exists():
        raise UserError(f"the weights of {name} are not here, and INVARIANCES_OFFLINE is set; {advice}.")
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # the network's, the file's, and whatever broken bytes lead the unpickler to
        raise UserError(f"the weights of {name} could not be fetched ({short(error)}); {advice}.") from error
    return state
