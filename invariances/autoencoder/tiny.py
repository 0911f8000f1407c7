"""Tiny public autoencoders of latent diffusion models: maps of an eighth of the picture's side."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.autoencoder.spatial import FACTOR
from invariances.system.errors import UserError
from invariances.system.weights import read_state_dict, weights_hash

NOISE = 0.05
"""Standard deviation of the posterior."""
_WIDTH, _BLOCKS, _BOUND = 64, 3, 3.0
_MIDDLE, _GROUPS = 256, 4


class Bounded(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return _BOUND * torch.tanh(x / _BOUND)


class Block(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))), x after x + pool(x) where there is a pool: what all places say.

    Args:
        pooled: There is one.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        self.pool: nn.Module | None = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(_WIDTH, _MIDDLE, 1, bias=False),
                nn.GroupNorm(_GROUPS, _MIDDLE),
                nn.ReLU(),
                nn.Conv2d(_MIDDLE, _WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class TinyAutoencoder(nn.Module):
    """The architecture of TAESD (1.2 M parameters a side), and of TAEF2, whose middle blocks see all places.

    Both ways are fully convolutional: (N, 3, H, W) to (N, C, H/8, W/8). The latents' deviation is about 1; the
    posterior's is `NOISE`. Source: Ollin Boer Bohan, "TAESD", github.com/madebyollin/taesd.

    Args:
        channels: C: 4 (taesd, taesdxl), 16 (taef1), 32 (taef2).
        pooled: Middle blocks see all places (taef2).
        size: Usual side of the pictures, a multiple of 8; others are encoded and decoded as well.
    """

    def __init__(self, channels: int, pooled: bool = False, size: int = 64) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "pooled": pooled, "size": size}
        self.encoder = nn.Sequential(*_encoder(channels, pooled))
        self.decoder = nn.Sequential(*_decoder(channels, pooled))
        self.to(memory_format=torch.channels_last)

    @property
    def image_size(self) -> int:
        """Usual side of its pictures in pixels."""
        return int(self.config["size"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, size / 8, size / 8)."""
        side = self.image_size // FACTOR
        return int(self.config["channels"]), side, side

    @property
    def latent_dim(self) -> int:
        """Numbers of a latent at the usual size."""
        return math.prod(self.latent_shape)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of pictures (N, 3, H, W) in [-1, 1], sides multiples of 8; its moments are maps.

        Raises:
            UserError: A side is no multiple of 8.
        """
        if images.shape[-1] % FACTOR or images.shape[-2] % FACTOR:
            raise UserError(
                f"pictures of {images.shape[-2]} × {images.shape[-1]} pixels cannot be encoded; sides must be "
                f"multiples of {FACTOR}"
            )
        mean = self.encoder((images + 1) / 2).float()
        return DiagonalGaussian(mean, torch.full_like(mean, 2 * math.log(NOISE)))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] of latents (N, C, H/8, W/8)."""
        pictures: Tensor = self.decoder(latents)
        return (2 * pictures - 1).clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction D(mode of E(x)), in [-1, 1]."""
        return self.decode(self.encode(images).mode())

    def fingerprint(self) -> str:
        """A hash of architecture and weights."""
        return weights_hash(repr(sorted(self.config.items())), self.state_dict())

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], size: int = 64) -> TinyAutoencoder:
        """From a published file, with the author's names (`encoder.1.conv.0.weight`) or those of diffusers.

        Raises:
            UserError: The file cannot be read, or holds another architecture.
        """
        state = _own_names(read_state_dict(path)[0])
        first = state.get("decoder.1.weight")
        if first is None or first.dim() != 4:
            raise UserError(f"{str(path)!r} holds no tiny autoencoder (taesd, taesdxl, taef1, taef2)")
        model = cls(first.shape[1], any(".pool." in name for name in state), size)
        try:
            model.load_state_dict({name: each.float() for name, each in state.items()})
        except RuntimeError as error:
            raise UserError(
                f"{str(path)!r} holds no tiny autoencoder (taesd, taesdxl, taef1, taef2): "
                f"{str(error).splitlines()[-1].strip()}"
            ) from None
        return model.eval().requires_grad_(False)


def is_tiny(path: str | os.PathLike[str]) -> bool:
    """Whether a safetensors file has the tensors of a published tiny autoencoder, and says nothing of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            names, said = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError):
        return False
    return "architecture" not in said and bool({"decoder.1.weight", "decoder.layers.0.weight"} & names)


def _own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The author's names: in diffusers' files they have `layers`, and the decoder's bound has no place of its own."""

    def own(name: str) -> str:
        found = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", name)
        if found is None:
            return name
        side, place, rest = found.groups()
        return f"{side}.{int(place) + (side == 'decoder')}.{rest}"

    return {own(name): each for name, each in state.items()}


def _encoder(channels: int, pooled: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, _WIDTH, 3, padding=1), Block()]
    for stage in range(3):
        layers.append(nn.Conv2d(_WIDTH, _WIDTH, 3, 2, 1, bias=False))
        layers += [Block(pooled and stage == 2) for _ in range(_BLOCKS)]
    return [*layers, nn.Conv2d(_WIDTH, channels, 3, padding=1)]


def _decoder(channels: int, pooled: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [Bounded(), nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        layers += [Block(pooled and stage == 0) for _ in range(_BLOCKS)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False)]
    return [*layers, Block(), nn.Conv2d(_WIDTH, 3, 3, padding=1)]
