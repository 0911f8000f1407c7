"""LPIPS: how far two pictures are apart to the eye, in the layers of VGG-16 or AlexNet."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torchvision.models import get_model

from invariances.system.errors import UserError
from invariances.system.weights import read_state_dict

WIDTHS = {"vgg16": (64, 128, 256, 512, 512), "alexnet": (64, 192, 384, 256, 256)}
LEAST_SIDE = 32
"""Smaller pictures vanish before the last layer."""
_CUTS = {"vgg16": (4, 9, 16, 23, 30), "alexnet": (2, 5, 8, 10, 12)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """d(x, y) = Σ_l mean_hw Σ_c w_lc (x̂_lc − ŷ_lc)², features x̂ of unit length over channels.

    Layers are the last ReLU of each of VGG-16's five stages, or AlexNet's five. The published file holds the weights w
    alone; the backbone's are torchvision's. Images (N, 3, H, W) in [-1, 1]. Source: Zhang et al. 2018.

    Args:
        backbone: "vgg16" or "alexnet".
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: str = "vgg16") -> None:
        super().__init__()
        self.backbone = get_model(backbone, weights=None).features
        self.cuts = _CUTS[backbone]
        self.weights = nn.ParameterList(torch.ones(width) / width for width in WIDTHS[backbone])
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
        for i, layer in enumerate(self.backbone[: self.cuts[-1]]):
            x = layer(x)
            if i + 1 in self.cuts:
                x = x.clone()  # the next layer may work in place
                features.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return features

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> LPIPS:
        """AlexNet's, from a file of its convolutions (`features.*`) and linear layers (`lpips.lin0` … `lpips.lin4`).

        Raises:
            UserError: The file cannot be read, or holds others.
        """
        state, _ = read_state_dict(path)
        module = cls("alexnet")
        try:
            features = {
                key.removeprefix("features."): each for key, each in state.items() if key[:9] == "features."
            }
            module.backbone.load_state_dict(features)
            for k, weight in enumerate(module.weights):
                weight.data.copy_(state[f"lpips.lin{k}"].flatten())
        except (KeyError, RuntimeError) as error:
            raise UserError(
                f"{str(path)!r} holds no LPIPS of AlexNet: {str(error).splitlines()[0]}"
            ) from None
        return module.eval().requires_grad_(False)
