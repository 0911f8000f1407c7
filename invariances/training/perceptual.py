"""Distances between pictures as networks see them: in a frozen network's layers, and to a learned critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Features = Callable[[Tensor], Mapping[str, Tensor]]


def perceptual_distance(features: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Σ over layers of mean ‖a/‖a‖ − b/‖b‖‖², a and b the feature vectors at one place of each picture.

    Args:
        features: per layer (N, C, H, W) or (N, C).
        target: the same layers of the pictures to compare with.

    Returns:
        A scalar from 0 (the same) to 4 per layer. Source: LPIPS (Zhang et al. 2018), without learned weights.
    """
    distances = [
        (F.normalize(features[layer].float(), dim=1) - F.normalize(target[layer].float(), dim=1))
        .square()
        .sum(dim=1)
        .mean()
        for layer in target
    ]
    return torch.stack(distances).sum()


class Perceptual(nn.Module):
    """Perceptual distance in the layers of one or more frozen networks.

    Args:
        networks: each maps pictures (N, 3, H, W) in [-1, 1] to {layer: features}, for example a `Representation`
            of several layers.
    """

    def __init__(self, networks: Sequence[Features]) -> None:
        super().__init__()
        self.networks = list(networks)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """The mean distance of `images` to `target`, both (N, 3, H, W); gradients flow to `images` alone."""
        total = images.new_zeros(())
        for network in self.networks:
            with torch.no_grad():
                wanted = network(target)
            total = total + perceptual_distance(network(images), wanted)
        return total


class PatchDiscriminator(nn.Module):
    """A critic of overlapping patches: (N, 3, H, W) to scores (N, 1, H/8, W/8), spectrally normalised.

    Source: Isola et al. 2017 (PatchGAN); trained with the hinge loss.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, 4, stride=2, padding=1)
            layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
        layers.append(nn.utils.parametrizations.spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Scores: high where a patch looks real."""
        scores: Tensor = self.layers(images)
        return scores

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Hinge loss ½(mean max(0, 1 − D(real)) + mean max(0, 1 + D(fake)))."""
        scores = self(torch.cat([real, fake])).float()
        real_scores, fake_scores = scores.chunk(2)
        return 0.5 * (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean())
