"""The embedder: a representation of any shape becomes one vector that the transform is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from invariances.flow.layers import LIMIT
from invariances.system.errors import UserError

_LEAST_PROBABILITY = 1e-12


def log_probabilities(representation: Tensor) -> Tensor:
    """The logarithm of probabilities, none below 1e-12: faint ones tell as much as strong ones."""
    return representation.clamp_min(_LEAST_PROBABILITY).log()


class Embedder(nn.Module, ABC):
    """e = embed(z): (N, C) or (N, C, H, W) → (N, E), each item's by itself; |e| is held below 1e12.

    Args:
        shape: Of the representation without batch.
        outputs: E.
        probabilities: The representation is a softmax, whose logarithm is read.

    Attributes:
        taught_first: Whether it learns before the flow, by a `log_prob` of its own, and is then frozen, so that its
            outputs need computing but once; else it learns by the flow's loss.
    """

    taught_first: ClassVar[bool] = False

    def __init__(self, shape: Sequence[int], outputs: int, probabilities: bool = False) -> None:
        super().__init__()
        self.shape, self.outputs, self.probabilities = tuple(shape), outputs, probabilities

    def forward(self, representation: Tensor) -> Tensor:
        """(N, E) from a representation of the shape announced, or of (N, C, 1, 1) for (C,).

        Raises:
            UserError: It has another shape.
        """
        read = self.read(representation)
        return self.embed(read).to(read.dtype).clamp(-LIMIT, LIMIT)

    def read(self, representation: Tensor) -> Tensor:
        """What `embed` is given: the representation in the weights' type; of probabilities the logarithm.

        Raises:
            UserError: It has another shape than announced.
        """
        z = representation
        if len(self.shape) == 1 and z.dim() == 4 and z.shape[2:] == (1, 1):
            z = z.flatten(1)
        if tuple(z.shape[1:]) != self.shape:
            raise UserError(
                f"the representation has shape {tuple(z.shape)}, but this flow was built for "
                f"{('N', *self.shape)}; use the layer and network that it was trained for."
            )
        z = z.to(next(self.parameters()).dtype)
        return log_probabilities(z) if self.probabilities else z

    @abstractmethod
    def embed(self, read: Tensor) -> Tensor:
        """(N, E) of what `read` gave."""


class NoEmbedder(Embedder):
    """e = (), of a flow without representation: (N, 0)."""

    def __init__(self) -> None:
        super().__init__((), 0)

    def forward(self, representation: Tensor) -> Tensor:
        """(N, 0) of anything."""
        return self.embed(representation)

    def embed(self, read: Tensor) -> Tensor:
        """(N, 0) of anything."""
        return torch.empty(len(read), 0, device=read.device)
