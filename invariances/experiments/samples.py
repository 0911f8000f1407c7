"""Invariances drawn once and shown with several representations: what all experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.system.checks import MOST_SAMPLES, number
from invariances.system.errors import UserError

CHUNK = 64
"""Pictures that are computed at once; results do not depend on it."""


def invariances(
    interpreter: Interpreter,
    count: int,
    n: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """V = temperature · ε, ε ~ N(0, I): (count, n, *latent_shape), drawn at once and before anything is computed.

    Args:
        interpreter: Says the shape and the device.
        count: Pictures.
        n: Samples for each.
        temperature: 1 for true samples; lower shows less variety.
        generator: Makes them repeat; on the processor.

    Raises:
        UserError: There would be no samples.
    """
    number("n", n, 1, MOST_SAMPLES + 1, whole=True)
    number("temperature", temperature, 0)
    shape = (count, n, *interpreter.flow.latent_shape)
    return (temperature * torch.randn(shape, generator=generator)).to(interpreter.device)


@torch.no_grad()
def pictures_of(interpreter: Interpreter, v: Tensor, z: Tensor, fresh: bool = False) -> Tensor:
    """D(t⁻¹(v | z)): (N, n, 3, S, S) of invariances (N, n, *latent_shape) and representations (N, …)."""
    return interpreter.decode(latents_of(interpreter, v, z, fresh))


@torch.no_grad()
def latents_of(interpreter: Interpreter, v: Tensor, z: Tensor, fresh: bool = False) -> Tensor:
    """t⁻¹(v | z), in the shape of the invariances (N, n, *latent_shape); `fresh` v are no picture's."""
    flow, n = interpreter.flow, v.shape[1]
    embedding = flow.embed(z).repeat_interleave(n, dim=0)
    pairs = zip(torch.split(v.flatten(0, 1), CHUNK), torch.split(embedding, CHUNK))
    back = flow.drawn if fresh else flow.inverse
    return torch.cat([back(part, embedding=e) for part, e in pairs]).reshape(v.shape)


@torch.no_grad()
def made_pictures(interpreter: Interpreter, n: int, generator: torch.Generator | None = None) -> Tensor:
    """D(t⁻¹(v)), (n, 3, S, S): pictures of a flow that is told of no layer.

    Raises:
        UserError: The flow has to be told of one.
    """
    if not isinstance(interpreter.whole, LayeredFlow):
        raise UserError("this flow makes pictures only when it is told what a layer knows; use another one")
    return interpreter.decode(interpreter.whole.at(None).sample(None, n, generator=generator)[0])


@torch.no_grad()
def sample_rows(
    interpreter: Interpreter, images: Tensor, n: int, generator: torch.Generator, temperature: float = 1.0
) -> tuple[Tensor, list[str]]:
    """The rows of a grid, (N, 2 + n, 3, S, S) on the CPU: each picture, its reconstruction, n samples; their names."""
    samples = interpreter.sample(images, n, temperature, generator)
    columns = [interpreter.resized(images), interpreter.reconstruct(images), *samples.unbind(1)]
    return torch.stack(columns, dim=1).cpu(), ["picture", "autoencoder", *["sample"] * n]


def record(network: str, layer: str, rows: Sequence[Any], **asked: Any) -> dict[str, Any]:
    """What a file of numbers says: whose they are, what was asked, and one object for each picture."""
    return {"network": network, "layer": layer, **asked, "pictures": list(rows)}


def in_chunks(images: Tensor) -> list[Tensor]:
    """The pictures, `CHUNK` at a time."""
    return list(torch.split(images, CHUNK))


def predicted(interpreter: Interpreter, images: Tensor) -> Tensor | None:
    """The network's probabilities (N, classes); None where its output is no vector of classes."""
    parts = []
    with torch.no_grad():
        for part in in_chunks(interpreter.resized(images)):
            try:
                logits = interpreter.representation.logits(part)
            except UserError:
                return None
            if logits.dim() != 2 or logits.shape[1] < 2:
                return None
            parts.append(logits.softmax(1))
    return torch.cat(parts)


def needs_encoder(interpreter: Interpreter, what: str) -> None:
    """Refuses an interpreter whose autoencoder only decodes.

    Raises:
        UserError: It has no encoder.
    """
    if not interpreter.encodes:
        raise UserError(
            f"{what} needs the invariances of a picture, but the decoder of this interpreter has no encoder; "
            "choose another interpreter, or draw samples"
        )
