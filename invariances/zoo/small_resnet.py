"""A small residual classifier for 64-pixel pictures, and the loop that trains it on a CPU in minutes.

Its modules are named for what they are (`stem`, `stage1` … `stage4`, `pool`, `fc`), so that a representation
can be taken at any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invariances.flow.residual_block import ResidualBlock
from invariances.system.errors import UserError
from invariances.system.network_file import read_network, save_network
from invariances.zoo.small_alexnet import SmallAlexNet


class SmallResNet(nn.Module):
    """Residual classifier: stem of stride 2, four stages that double width and halve sides, pooling, one layer.

    Args:
        classes: number of classes, or their names.
        width: channels of `stage1`; `stage2` … `stage4` have 2, 4 and 8 times as many.
        blocks: residual blocks of each stage.

    Input (N, 3, H, W) in [-1, 1], made for 64 pixels; output logits (N, classes).
    """

    preprocessing: ClassVar = {
        "size": 64,
        "mean": 0.5,
        "std": 0.5,
    }  # what a Representation makes its input with

    def __init__(
        self, classes: int | Sequence[str], width: int = 32, blocks: Sequence[int] = (1, 1, 1, 1)
    ) -> None:
        super().__init__()
        self.classes = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
        if len(self.classes) < 2 or len(blocks) != 4:
            raise UserError(
                f"a classifier needs two or more classes and four stages, not {len(self.classes)} classes "
                f"and {len(blocks)} stages"
            )
        self.config = {"classes": self.classes, "width": width, "blocks": list(blocks)}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        channels = width
        for number, depth in enumerate(blocks):
            outputs = width * 2**number
            stage = nn.Sequential(
                *(
                    ResidualBlock(channels if k == 0 else outputs, outputs, 2 if k == 0 and number else 1)
                    for k in range(depth)
                )
            )
            self.add_module(f"stage{number + 1}", stage)
            channels = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) in [-1, 1]."""
        x = self.stem(images)
        for number in range(4):
            x = self.get_submodule(f"stage{number + 1}")(x)
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


KINDS: dict[str, type[SmallResNet] | type[SmallAlexNet]] = {
    "SmallResNet": SmallResNet,
    "SmallAlexNet": SmallAlexNet,
}


def save_classifier(
    network: SmallResNet | SmallAlexNet, path: str | Path, dtype: torch.dtype = torch.float16, **notes: Any
) -> Path:
    """Write weights and, as metadata, architecture, class names and notes into one safetensors file; gives its path.

    Args:
        network: what to save.
        path: file to write; its folder is made.
        dtype: of the floating-point weights in the file.
        notes: JSON-able facts kept beside the architecture (a test accuracy, a recipe).
    """
    return save_network(
        path, {"name": type(network).__name__, **network.config}, network.state_dict(), dtype, notes
    )


def load_classifier(path: str | Path) -> SmallResNet | SmallAlexNet:
    """The network that `save_classifier` wrote, frozen and in eval mode, weights as float32.

    Raises:
        UserError: the file is missing, truncated, or holds no classifier of this project.
    """
    remedy = (
        "train one with `invariances models build shapes`, or give the weights of another network beside a network's "
        "name or module, as weights=…"
    )
    architecture, tensors = read_network(path, list(KINDS), "classifier", remedy)
    try:
        network = _empty(architecture, sum(map(Tensor.numel, tensors.values())))
        network.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); fetch or train the classifier again") from error
    return network.requires_grad_(False).eval()


def _empty(architecture: Mapping[str, Any], most: int) -> SmallResNet | SmallAlexNet:
    """The network of a file, without weights: nothing of the size that a damaged file claims is made."""
    options = dict(architecture)
    kind = KINDS[options.pop("name")]
    classes = options.get("classes")
    if sum(options.get("blocks", [])) > most or (isinstance(classes, int) and classes > most):
        raise ValueError("its tensors are fewer than it says")
    with torch.device("meta"):
        return kind(**options)
