"""LPIPS: how far two pictures are apart to the eye, in the layers of VGG-16."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import get_model

WIDTHS = (64, 128, 256, 512, 512)
_CUTS = (4, 9, 16, 23, 30)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lc − ŷ_lc)², features x̂ of unit length over channels.

    Layers are the last ReLU of each of VGG-16's five stages. The published file holds the weights w alone; the
    backbone's are torchvision's `vgg16`. Images (N, 3, H, W) in [-1, 1]. Source: Zhang et al. 2018.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: str = "vgg16") -> None:
        super().__init__()
        self.backbone = get_model(backbone, weights=None).features
        self.weights = nn.ParameterList(torch.ones(width) / width for width in WIDTHS)
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (N,) between images x and y."""
        total = x.new_zeros(len(x))
        for weight, a, b in zip(self.weights, self._features(x), self._features(y), strict=True):
            total = total + ((a - b).square() * weight.view(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (images - self.shift) / self.scale
        features = []
        for i, layer in enumerate(self.backbone):
            x = layer(x)
            if i + 1 in _CUTS:
                features.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return features
