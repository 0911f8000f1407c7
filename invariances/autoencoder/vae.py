"""A convolutional VAE that starts from principal components: the complete code z̄ = E(x), x ≈ D(z̄)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.system.errors import UserError
from invariances.system.weights import weights_hash

_LINEAR_SIZE = 32
_BOTTOM_SIZE = 4
_INITIAL_LOGVAR = -5.0


def _keep_variance(module: nn.Module) -> None:
    """He initialisation, with residual branches that begin at zero: no layer shrinks or grows what passes it."""
    if isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.weight)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    """x + f(x), f two 3×3 convolutions, the second zero at the start; (N, C, H, W) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The input plus f's residual."""
        hidden = self.conv1(F.leaky_relu(x, 0.2))
        out: Tensor = x + self.conv2(F.leaky_relu(hidden, 0.2))
        return out


class Encoder(nn.Module):
    """Pictures (N, 3, S, S) to moments (N, 2D): a linear map of the 32-pixel picture plus a learned residual."""

    def __init__(self, size: int, latent_dim: int, widths: list[int], blocks: int) -> None:
        super().__init__()
        small = min(size, _LINEAR_SIZE)
        self.linear = nn.Linear(3 * small * small, latent_dim)
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            stages.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            stages.extend(ResidualBlock(after) for _ in range(blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1] * _BOTTOM_SIZE**2, 2 * latent_dim)
        self.small = small

    @torch.no_grad()
    def start(self) -> None:
        """The residual of the mean is zero, the logarithm of the variance small."""
        self.head.weight.zero_()
        self.head.bias.zero_()
        self.head.bias.chunk(2)[1].fill_(_INITIAL_LOGVAR)

    def forward(self, images: Tensor) -> Tensor:
        """Moments, mean and logvar side by side."""
        trunk = self.stages(self.stem(F.pixel_unshuffle(images, 2)))
        moments: Tensor = self.head(F.leaky_relu(trunk, 0.2).flatten(1))
        with torch.autocast(images.device.type, enabled=False):
            pooled = F.adaptive_avg_pool2d(images.float(), self.small).flatten(1)
            mean, logvar = moments.float().chunk(2, dim=1)
            return torch.cat([mean + self.linear(pooled), logvar], dim=1)


class Decoder(nn.Module):
    """Latents (N, D) to pictures (N, 3, S, S), not yet clamped: a linear 32-pixel picture plus a learned residual.

    The last stage sees the linear picture beside what the stages before it made of the latent, so that it has edges
    to sharpen and need not first find them.
    """

    def __init__(self, size: int, latent_dim: int, widths: list[int], blocks: int) -> None:
        super().__init__()
        small = min(size, _LINEAR_SIZE)
        self.linear = nn.Linear(latent_dim, 3 * small * small)
        self.head = nn.Linear(latent_dim, widths[-1] * _BOTTOM_SIZE**2)
        stages: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], 0]):
            stages.extend(ResidualBlock(before) for _ in range(blocks))
            if after:
                stages += [nn.Conv2d(before, after, 1), nn.Upsample(scale_factor=2)]
        self.stages = nn.Sequential(*stages[: len(stages) - blocks])
        self.guide = nn.Conv2d(12, widths[0], 3, padding=1)
        self.last = nn.Sequential(*stages[len(stages) - blocks :])
        self.out = nn.Conv2d(widths[0], 12, 3, padding=1)
        self.size, self.small = size, small

    @torch.no_grad()
    def start(self) -> None:
        """The residual is zero."""
        self.out.weight.zero_()

    def forward(self, latents: Tensor) -> Tensor:
        """The picture, values near [-1, 1]."""
        bottom = self.head(latents).unflatten(1, (-1, _BOTTOM_SIZE, _BOTTOM_SIZE))
        trunk = self.stages(bottom.contiguous(memory_format=torch.channels_last))
        with torch.autocast(latents.device.type, enabled=False):
            base = self.linear(latents.float()).unflatten(1, (3, self.small, self.small))
            if self.small != self.size:
                base = F.interpolate(base, size=self.size, mode="bilinear", align_corners=False)
        trunk = self.last(trunk + self.guide(F.pixel_unshuffle(base, 2)))
        residual = F.pixel_shuffle(self.out(F.leaky_relu(trunk, 0.2)), 2)
        picture: Tensor = base + residual.float()
        return picture


class VAE(nn.Module):
    """E(x) = N(mean(x), diag exp(logvar(x))), D(z̄): paper section 3.1's autoencoder, small enough to train here.

    Both halves are a linear path, started at the training pictures' principal components (`start_linear`), plus a
    convolutional residual that is zero at the start.

    Args:
        size: pictures are size×size pixels, 32, 64 or 128.
        latent_dim: D, the length of z̄.
        width: channels at half resolution; they double at every halving of the picture, up to `max_width`.
        max_width: most channels of any convolution.
        blocks: residual blocks per resolution.

    Raises:
        UserError: `size` is not 32, 64 or 128, or a width is not positive.
    """

    def __init__(
        self, size: int = 64, latent_dim: int = 128, width: int = 32, max_width: int = 256, blocks: int = 1
    ) -> None:
        super().__init__()
        if size not in (32, 64, 128):
            raise UserError(f"a VAE of size {size} is not possible; choose 32, 64 or 128 pixels")
        if min(latent_dim, width, max_width) < 1 or blocks < 0:
            raise UserError("latent_dim, width and max_width of a VAE must be at least 1, blocks at least 0")
        self.config: dict[str, Any] = {
            "size": size, "latent_dim": latent_dim, "width": width, "max_width": max_width, "blocks": blocks
        }  # fmt: skip
        stages = (size // _BOTTOM_SIZE).bit_length() - 1
        widths = [min(width * 2**stage, max_width) for stage in range(stages)]
        self.encoder = Encoder(size, latent_dim, widths, blocks)
        self.decoder = Decoder(size, latent_dim, widths, blocks)
        self.apply(_keep_variance)
        self.encoder.start()
        self.decoder.start()
        self.to(memory_format=torch.channels_last)

    @property
    def latent_dim(self) -> int:
        """D, the length of a latent."""
        return int(self.config["latent_dim"])

    @property
    def image_size(self) -> int:
        """Side of its pictures in pixels."""
        return int(self.config["size"])

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior q(z̄ | x) of pictures (N, 3, S, S) in [-1, 1]; another size is resized to S first."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(
                images, size=self.image_size, mode="bilinear", align_corners=False, antialias=True
            )
        return DiagonalGaussian.from_moments(
            self.encoder(images.contiguous(memory_format=torch.channels_last))
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) in [-1, 1] of latents (N, D)."""
        pictures: Tensor = self.decoder(latents)
        return pictures.clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction D(mode of E(x)), (N, 3, S, S) in [-1, 1]."""
        return self.decode(self.encode(images).mode())

    def fingerprint(self) -> str:
        """A hash of architecture and weights: equal for equal behaviour, so that a cache knows its autoencoder."""
        return weights_hash(repr(sorted(self.config.items())), self.state_dict())

    @torch.no_grad()
    def start_linear(self, images: Tensor) -> None:
        """Set the linear paths to the whitened principal components of `images` (N, 3, S, S) in [-1, 1].

        Latents then have zero mean and unit variance over `images`, and decoding them is PCA's reconstruction at
        32 pixels. Where there are fewer pictures than latents, the last latents start as noise directions.
        """
        pooled = F.adaptive_avg_pool2d(images, self.encoder.small).flatten(1).double()
        mean = pooled.mean(dim=0)
        covariance = (pooled - mean).T @ (pooled - mean) / max(len(pooled) - 1, 1)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0)[: self.latent_dim], vectors.flip(1)[:, : self.latent_dim]
        if values.shape[0] < self.latent_dim:
            raise UserError(
                f"latent_dim {self.latent_dim} is more than the {values.shape[0]} values of a picture"
            )
        scale = values.clamp_min(values[0] * 1e-6 + 1e-12).sqrt()
        self.encoder.linear.weight.copy_((vectors / scale).T)
        self.encoder.linear.bias.copy_(-(vectors / scale).T @ mean)
        self.decoder.linear.weight.copy_(vectors * scale)
        self.decoder.linear.bias.copy_(mean)

    def freeze_linear(self) -> None:
        """Leave the linear paths at the principal components: training changes everything but them."""
        for half in (self.encoder, self.decoder):
            half.linear.requires_grad_(False)
