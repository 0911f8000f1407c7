"""AlexNet's convolutions with a small head, for pictures of 64 pixels seen at twice their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from invariances.system.errors import UserError

SIZE = 128
"""Side that pictures are resized to: conv5 then gives maps of 7×7."""


class SmallAlexNet(nn.Module):
    """AlexNet at 128 pixels: its five convolutions, then fc6 and fc7 of `width` units and fc8 over the classes.

    `layer_aliases` give the paper's names conv1 … conv5, fc6, fc7, fc8; but for fc8 they are taken after the ReLU.

    Args:
        classes: Number of classes, or their names.
        width: Units of fc6 and of fc7.

    Input (N, 3, 128, 128), normalised as ImageNet's; output logits (N, classes).
    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".
    """

    preprocessing: ClassVar = {
        "size": SIZE,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bilinear",
        "antialias": True,
    }
    layer_aliases: ClassVar = {
        "conv1": "features.1",
        "conv2": "features.4",
        "conv3": "features.7",
        "conv4": "features.9",
        "conv5": "features.11",
        "fc6": "head.relu6",
        "fc7": "head.relu7",
        "fc8": "head.fc8",
    }

    def __init__(self, classes: int | Sequence[str], width: int = 512) -> None:
        super().__init__()
        self.classes = [str(k) for k in range(classes)] if isinstance(classes, int) else list(classes)
        if len(self.classes) < 2 or width < 1:
            raise UserError(
                f"a classifier of {len(self.classes)} classes and width {width} is not possible; give two classes or "
                "more, and a width of at least 1"
            )
        self.config = {"classes": self.classes, "width": width}
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.flatten = nn.Flatten()
        self.head = Head(256 * 3 * 3, width, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of normalised images (N, 3, 128, 128)."""
        logits: Tensor = self.head(self.flatten(self.features(images)))
        return logits

    def take_convolutions(self, state: Mapping[str, Tensor]) -> None:
        """Fill the convolutions from a state dict with torchvision's names (`features.0.weight` …).

        Raises:
            UserError: Some are missing or of another shape.
        """
        own = self.features.state_dict()
        found = {name: state.get(f"features.{name}") for name in own}
        wrong = [name for name, each in found.items() if each is None or each.shape != own[name].shape]
        if wrong:
            raise UserError(f"the weights hold no features.{wrong[0]} of AlexNet; give torchvision's alexnet")
        self.features.load_state_dict({name: each for name, each in found.items() if each is not None})


class Head(nn.Module):
    """fc8(relu(fc7(relu(fc6(x))))), with dropout before fc6 and fc7 while it learns.

    Args:
        inputs: Entries of x.
        width: Units of fc6 and of fc7.
        classes: Entries of the output.
        dropout: Share of entries left out.
    """

    def __init__(self, inputs: int, width: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc6, self.relu6 = nn.Linear(inputs, width), nn.ReLU()
        self.fc7, self.relu7 = nn.Linear(width, width), nn.ReLU()
        self.fc8 = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of x (N, inputs)."""
        hidden = self.relu6(self.fc6(self.dropout(x)))
        logits: Tensor = self.fc8(self.relu7(self.fc7(self.dropout(hidden))))
        return logits
