"""From images in [-1, 1] to what a network takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_MOST = 8192


@dataclass(frozen=True)
class Preprocessing:
    """From images in [-1, 1] of any size to what a network takes: the whole picture resized, then normalised.

    Args:
        size: side in pixels, or (height, width).
        mean, std: of each channel that the network takes, for values in [0, 1].
        interpolation: nearest, bilinear or bicubic.
        antialias: smooth before making images smaller.
    """

    size: int | tuple[int, int] = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"interpolation {self.interpolation!r} is unknown; use {nearest(self.interpolation, INTERPOLATIONS)}."
            )
        if (
            not 1 <= min(self.shape) <= max(self.shape) <= _MOST
            or min(self.std) <= 0
            or not {len(self.mean), len(self.std)} <= {1, 3, 4}
        ):
            raise UserError(
                f"preprocessing to size {self.size} with mean {self.mean} and std {self.std} is impossible: give a "
                f"size of at least 1 and at most {_MOST:,}, and a mean and a positive standard deviation for all "
                "channels or for each."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __call__(self, images: Tensor, channels: int = 3) -> Tensor:
        """(resize((images + 1) / 2) - mean) / std: (N, 3, H, W) in [-1, 1] to network inputs; differentiable.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            channels: of the network: 1 gets the mean of red, green and blue, 4 an opaque alpha channel (1 in [0, 1])
                besides. Of three means and deviations, a grey picture takes the means; alpha is left as it is.
        """
        x = images
        if tuple(x.shape[-2:]) != self.shape:
            smooth = self.interpolation != "nearest"
            x = nn.functional.interpolate(
                x,
                self.shape,
                mode=self.interpolation,
                align_corners=False if smooth else None,
                antialias=self.antialias and smooth,
            )
        x = (x + 1) / 2
        if channels == 1:
            x = x.mean(1, keepdim=True)
        elif channels == 4:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        mean, std = (
            x.new_tensor(_of_channels(given, channels, alone)).view(1, -1, 1, 1)
            for given, alone in ((self.mean, 0.0), (self.std, 1.0))
        )
        return (x - mean) / std

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Preprocessing:
        """From a mapping with some of the fields; others keep their defaults."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in values.items() if key in known and value is not None}
        size = values.get("size", cls.size)
        if not isinstance(size, int):
            sides = tuple(int(side) for side in size)
            values["size"] = sides[0] if len(set(sides)) == 1 else sides
        for key in ("mean", "std"):
            if key in values:
                given = values[key]
                values[key] = (
                    tuple(float(v) for v in given) if isinstance(given, Sequence) else (float(given),)
                )
        return cls(**values)


def _of_channels(given: Sequence[float], channels: int, alone: float) -> list[float]:
    """A mean or deviation for each channel of a network, or one for all; `alone` is what leaves alpha as it is."""
    if len(given) in (1, channels):
        return list(given)
    if channels == 1:
        return [sum(given) / len(given)]
    if (len(given), channels) == (3, 4):
        return [*given, alone]
    raise UserError(
        f"mean and std are given for {len(given)} channels, and the network takes {channels}; give one, or {channels}"
    )
