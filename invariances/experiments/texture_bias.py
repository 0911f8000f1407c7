"""Texture bias: two networks look at one picture; samples of both show which of shape and texture each keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from invariances.data.shapes import Shapes
from invariances.evaluation.faithfulness import cosine
from invariances.experiments.samples import in_chunks, invariances, pictures_of
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError

Reader = Callable[[Tensor], Mapping[str, Tensor]]
"""Pictures (N, 3, S, S) to factors (N,), as `FactorReader.read`."""

CUES = ("shape", "texture")


@dataclass(frozen=True)
class TextureBias:
    """Two networks' samples of the same pictures.

    Attributes:
        pictures: (N, 3, S, S).
        samples: Of the first and of the second network, (N, n, 3, S, S) each; sample i of both has the same v.
        cosine: Of each sample and its picture, at each network's own layer, (N, n) each.
        kept: Per network {"shape": (N,), "texture": (N,)}: share of samples that keep the picture's; chance taken out,
            so 0 is what unrelated pictures reach and 1 all. Empty where there is no reader.
        read: What the reader reads off each picture, {"shape": (N,), "texture": (N,)} of kinds; may be empty.
    """

    pictures: Tensor
    samples: tuple[Tensor, Tensor]
    cosine: tuple[Tensor, Tensor]
    kept: tuple[dict[str, Tensor], dict[str, Tensor]]
    read: dict[str, Tensor] = field(default_factory=dict)

    def numbers(self) -> list[dict[str, dict[str, float]]]:
        """One object a picture, of network ("first", "second") and number."""
        return [
            {
                which: {
                    "cosine": float(self.cosine[k][at].mean()),
                    **{cue: float(each[at]) for cue, each in self.kept[k].items()},
                }
                for k, which in enumerate(("first", "second"))
            }
            for at in range(len(self.pictures))
        ]


def compared(names: Sequence[tuple[str, str]], rows: Sequence[Any], **asked: Any) -> dict[str, Any]:
    """What a file of numbers says: both networks and layers, what was asked, and one object for each picture."""
    both = {
        which: {"network": network, "layer": layer}
        for which, (network, layer) in zip(("first", "second"), names)
    }
    return {**both, **asked, "pictures": list(rows)}


@torch.no_grad()
def texture_bias(
    first: Interpreter,
    second: Interpreter,
    images: Tensor,
    n: int = 6,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    reader: Reader | None = None,
) -> TextureBias:
    """Samples of two networks with the same invariances.

    Args:
        first: Of one network.
        second: Of another, with latents of the same shape and pictures of the same size.
        images: (N, 3, H, W) or (3, H, W) in [-1, 1].
        n: Samples of each.
        temperature: 1 for true samples; lower shows less variety.
        generator: Makes them repeat.
        reader: Tells shape and texture of drawn pictures.

    Raises:
        UserError: The two do not share latents.
    """
    if (
        tuple(first.flow.latent_shape) != tuple(second.flow.latent_shape)
        or first.image_size != second.image_size
    ):
        raise UserError(
            f"the two interpreters have latents of {first.flow.latent_dim} and {second.flow.latent_dim} numbers and "
            f"pictures of {first.image_size} and {second.image_size} pixels; choose two of one autoencoder"
        )
    pictures = first.resized(images)
    v = invariances(first, len(pictures), n, temperature, generator)
    samples, close = [], []
    for each in (first, second):
        z = torch.cat([each.represent(part) for part in in_chunks(pictures)])
        made = pictures_of(each, v.to(each.device), z, fresh=True)
        seen = torch.cat([each.represent(part) for part in in_chunks(made.flatten(0, 1))])
        close.append(cosine(seen, z.repeat_interleave(n, dim=0)).reshape(-1, n).cpu())
        samples.append(made.cpu())
    pictures = pictures.cpu()
    read = {} if reader is None else {cue: each for cue, each in reader(pictures).items() if cue in CUES}
    kept = [{} if reader is None else _kept(reader, made, read) for made in samples]
    return TextureBias(pictures, (samples[0], samples[1]), (close[0], close[1]), (kept[0], kept[1]), read)


def _kept(reader: Reader, samples: Tensor, read: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(agreement − 1/8) / (1 − 1/8) for each cue, all eight kinds being as frequent; (N,)."""
    found = reader(samples.flatten(0, 1))
    kept = {}
    for cue, kind in read.items():
        agreement = (found[cue].reshape(samples.shape[:2]) == kind[:, None]).double().mean(1)
        kept[cue] = (agreement - 1 / 8) / (1 - 1 / 8)
    return kept


def conflicting(n: int, seed: int = 3) -> tuple[Shapes, Tensor]:
    """A world and the indices of its first `n` pictures whose shape and texture name different classes."""
    world = Shapes(4 * n, seed=seed)
    factors = world.factors(range(4 * n))
    return world, (factors["shape"] != factors["texture"]).nonzero()[:n, 0]


@torch.inference_mode()
def cue_conflict(network: nn.Module, n: int = 1000) -> dict[str, float]:
    """Where shape and texture say different classes: how often the network follows which, or neither."""
    world, indices = conflicting(n)
    factors = world.factors(indices)
    classes = torch.cat([network(world.images(part)).argmax(1) for part in torch.split(indices, 250)])
    followed = {name: float((classes == factors[name]).double().mean()) for name in ("shape", "texture")}
    return {**followed, "neither": 1 - sum(followed.values())}


def conflict_pictures(n: int) -> Tensor:
    """Pictures (n, 3, 64, 64) whose shape and texture name different classes."""
    world, indices = conflicting(n)
    return world.images(indices)
