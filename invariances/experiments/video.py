"""Image-to-video translation: the content of one picture moves as another's video does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invariances.data.clips import Clip, DrawnClip
from invariances.experiments.samples import needs_encoder
from invariances.interpreter import Interpreter

BATCH = 4
"""Frames that are translated at once: few enough that a stop is heard soon."""


@dataclass(frozen=True)
class Translated:
    """Frames in a row.

    Attributes:
        first: Number of the first one, from 0.
        frames: As they came, at the interpreter's size, (B, 3, S, S).
        results: The same invariances with the content of the picture, (B, 3, S, S).
    """

    first: int
    frames: Tensor
    results: Tensor


def about(network: str, layer: str, source: Clip | DrawnClip, frames: int, whole: bool) -> dict[str, Any]:
    """What a file about a translated clip says.

    Args:
        network: Its name.
        layer: Its name.
        source: The clip that was read.
        frames: How many came out.
        whole: Whether that is all of it.
    """
    return {
        "network": network,
        "layer": layer,
        "frames": frames,
        "frames_per_second": float(source.rate),
        "side": source.size,
        "sound": source.sound is not None,
        "whole": whole and not source.damage,
    }


def translated(
    interpreter: Interpreter, picture: Tensor, frames: Iterable[Tensor], batch: int = BATCH
) -> Iterator[Translated]:
    """D(t⁻¹(v(frame) | Φ(picture))), for one frame after another, some at a time; holds no more than these.

    The flow's part is `ConditionalFlow.exchanged`. Latents are the posterior's mode, so that equal frames give equal
    results and the video is steady.

    Args:
        interpreter: With an encoder.
        picture: Whose content is shown, (3, H, W) in [-1, 1].
        frames: (3, H, W) each in [-1, 1], square.
        batch: How many at a time; results do not depend on it.

    Raises:
        UserError: No encoder.
    """
    needs_encoder(interpreter, "a video")
    z = interpreter.represent(picture)
    waiting: list[Tensor] = []
    first = 0
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == batch:
            yield _translated(interpreter, z, first, waiting)
            first, waiting = first + len(waiting), []
    if waiting:
        yield _translated(interpreter, z, first, waiting)


@torch.no_grad()
def _translated(interpreter: Interpreter, z: Tensor, first: int, frames: list[Tensor]) -> Translated:
    sized = interpreter.resized(torch.stack(frames))
    latents = interpreter.flow.exchanged(interpreter.latent(sized), interpreter.represent(sized), z)
    results = interpreter.decode(latents)
    return Translated(first, sized.cpu(), results.cpu())
