"""Does a network have classes, so that it can be asked whether two pictures are of one class?

Any network gives numbers, but the largest of an embedding's means nothing. A network has classes where

- its output is a vector of two numbers or more, and
- the names of its classes are known and are as many, or the layer under study is its softmax, or the last of its
  modules that computes is a linear layer (or a convolution) of just that vector, whose name does not speak of an
  embedding (`proj`, `embed`, `neck`, `feature`).

A network whose last layer gives one number answers yes or no by its sign. All others have none: headless networks,
embeddings, maps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from invariances.representation import Layer, Representation, survey

_PASSING = {"Softmax", "LogSoftmax", "Sigmoid", "Dropout", "Identity", "Flatten", "Unflatten"}
_LINEAR = {"Linear", "NonDynamicallyQuantizableLinear", "LazyLinear", "Conv2d"}
_EMBEDDING = re.compile(r"proj|embed|neck|feature", re.IGNORECASE)


@dataclass(frozen=True)
class Classes:
    """What a network's output says of a picture.

    Args:
        kind: "classes": the largest of several; "sign": of one number; None: nothing that can be called a class.
        reason: Why there are none.
    """

    kind: Literal["classes", "sign"] | None
    reason: str = ""

    def of(self, logits: Tensor) -> Tensor:
        """The class (N,) of each row of logits (N, C)."""
        return (logits[:, 0] > 0).long() if self.kind == "sign" else logits.argmax(dim=1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log p(class) in nats, (N, C), or (N, 2) of one logit; float64."""
        logits = logits.double()
        if self.kind == "sign":
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.log_softmax(dim=1)


def classes_of(representation: Representation) -> Classes:
    """Whether the network has classes; see above."""
    name = representation.network_name
    if not representation.has_logits:
        return Classes(
            None, f"{name} has no classes: its output cannot be had, as with weights that lack the head"
        )
    lines = survey(representation)
    ends = [line for line in lines if line.name == "logits"]
    if not ends or len(ends[0].shape) != 1:
        return Classes(None, f"{name} has no classes: its output is no vector")
    count = ends[0].shape[0]
    names = representation.class_names
    if count > 1 and ((names is not None and len(names) == count) or representation.probabilities):
        return Classes("classes")
    last = _last(lines)
    if last is None or last.module not in _LINEAR or last.shape != (count,):
        kind = "nothing" if last is None else f"a {last.module}"
        return Classes(None, f"{name} has no classes: it ends in {kind}, not in a linear layer")
    if _EMBEDDING.search(last.name.rpartition(".")[2]):
        return Classes(None, f"{name} has no classes: its last layer {last.name!r} gives an embedding")
    return Classes("classes" if count > 1 else "sign")


def _last(lines: list[Layer]) -> Layer | None:
    """The last module without parts that computes something."""
    names = [line.name for line in lines]
    leaves = [
        line
        for line in lines
        if line.module
        and line.module not in _PASSING
        and not any(other.startswith(line.name + ".") for other in names)
    ]
    return leaves[-1] if leaves else None
