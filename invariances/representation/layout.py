"""What a layer gives, read as a map (N, C, H, W) or a vector (N, C); the rules are in `representation.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError

TOKENS = ("patch", "class")
_EXTRA_TOKENS = (0, 1, 2, 5)


@dataclass(frozen=True)
class Layout:
    """How a raw output is read.

    Args:
        kind: 'vector' (N, C), 'first' (N, C, H, W), 'last' (N, H, W, C) or 'tokens' (N, T, C).
        extra: tokens before those of patches.
        grid: (height, width) in patches.
        batch_axis: 1 where tokens are (T, N, C).
    """

    kind: str
    extra: int = 0
    grid: tuple[int, int] = (1, 1)
    batch_axis: int = 0

    def arrange(self, raw: Tensor, token: str = "patch") -> Tensor:
        """(N, C, H, W), or (N, C) where there is one cell, of a raw output, as floats; `token` as in Representation.

        Raises:
            UserError: where the class token is asked for and there is none.
        """
        raw = (raw.dequantize() if raw.is_quantized else raw).movedim(self.batch_axis, 0)
        if self.kind == "tokens" and token == "class":
            if not self.extra:
                raise UserError(
                    "token='class' asks for a class token, and this layer has none; use token='patch'."
                )
            z = raw[:, 0]
        elif self.kind == "tokens":
            z = raw[:, self.extra :].transpose(1, 2).reshape(len(raw), raw.shape[2], *self.grid)
        else:
            z = raw.movedim(3, 1) if self.kind == "last" else raw
        if z.dim() == 4 and z.shape[2:] == (1, 1):
            z = z.flatten(1)
        if z.is_complex():
            z = torch.cat([z.real, z.imag], dim=1)
        return z.float() if z.dtype not in (torch.float32, torch.float64) else z


def layout(
    shape: Sequence[int], batch: int, aspect: tuple[int, int], module: nn.Module, extra: int | None = None
) -> Layout | str:
    """The layout of a raw output of this shape, or what is wrong with it.

    Args:
        shape: with batch.
        batch: number of images that went in.
        aspect: (height, width) of the network's input.
        module: that gave the output.
        extra: tokens before those of patches, where the network says so.
    """
    if len(shape) == 3 and shape[0] != batch and shape[1] == batch:
        turned = layout((shape[1], shape[0], shape[2]), batch, aspect, module, extra)
        return turned if isinstance(turned, str) else replace(turned, batch_axis=1)
    if not shape or shape[0] != batch:
        return f"does not keep the batch (shape {tuple(shape)} for {batch} images)"
    if len(shape) == 2:
        return Layout("vector")
    if len(shape) == 4:
        first, last = _fits(shape[2], shape[3], aspect), _fits(shape[1], shape[2], aspect)
        reads_last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
        return Layout("last" if last and (reads_last or not first) else "first")
    if len(shape) == 3:
        for number in _EXTRA_TOKENS if extra is None else (extra, *_EXTRA_TOKENS):
            grid = _grid(shape[1] - number, aspect)
            if grid and (grid != (1, 1) or number in (0, extra)):
                return Layout("tokens", number, grid)
        return f"gives {tuple(shape[1:])}, which are not the tokens of an image"
    return f"gives {tuple(shape[1:])}, which is no vector, map or tokens"


def _fits(height: int, width: int, aspect: tuple[int, int]) -> bool:
    """Whether height : width is the aspect, give or take less than one cell."""
    return abs(height * aspect[1] - width * aspect[0]) < max(aspect)


def _grid(cells: int, aspect: tuple[int, int]) -> tuple[int, int] | None:
    if cells < 1:
        return None
    height = max(1, round((cells * aspect[0] / aspect[1]) ** 0.5))
    width = cells // height
    return (height, width) if height * width == cells and _fits(height, width, aspect) else None
