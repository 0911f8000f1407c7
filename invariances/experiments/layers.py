"""What a layer keeps of one picture: its reconstruction, pictures that it cannot tell from it, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invariances.evaluation.faithfulness import cosine
from invariances.experiments.samples import in_chunks, invariances, latents_of, predicted
from invariances.interpreter import Interpreter

_DRAWS = 8
"""So many true samples, or more, tell what a layer leaves open."""


@dataclass(frozen=True)
class Others:
    """Pictures to compare with, as one interpreter sees them; worth keeping where many pictures are looked at.

    Attributes:
        images: (m, 3, S, S).
        z: Their representations.
        latents: (m, D); None without an encoder.
    """

    images: Tensor
    z: Tensor
    latents: Tensor | None


@torch.no_grad()
def others_of(interpreter: Interpreter, images: Tensor) -> Others:
    """The pictures (m, 3, H, W) as the interpreter sees them."""
    sized = interpreter.resized(images)
    latents = None
    if interpreter.encodes:
        latents = torch.cat([interpreter.latent(part) for part in in_chunks(sized)]).flatten(1)
    return Others(sized, torch.cat([interpreter.represent(part) for part in in_chunks(sized)]), latents)


@dataclass(frozen=True)
class LayerView:
    """One picture as one layer sees it.

    Attributes:
        network, layer: Their names.
        picture: (3, S, S) in [-1, 1].
        reconstruction: What the autoencoder alone makes of it, (3, S, S); None without an encoder.
        samples: (n, 3, S, S).
        cosine: Of each sample's representation and the picture's, (n,): 1 is the same direction.
        others: Of each other picture's representation and the picture's, (m,); what unrelated pictures reach.
        rebuilt: Cosine of the reconstruction's representation and the picture's; None without an encoder.
        agreement: Share of samples that the network gives the picture's class; None without classes.
        variance_open: Variance of latents that share the representation, by that of the other pictures' latents:
            0, the layer knows the picture; 1, nothing of it. None without an encoder or other pictures.
    """

    network: str
    layer: str
    picture: Tensor
    reconstruction: Tensor | None
    samples: Tensor
    cosine: Tensor
    others: Tensor
    rebuilt: float | None
    agreement: float | None
    variance_open: float | None

    def numbers(self) -> dict[str, float | None]:
        """As JSON takes them: those of `told_by`, and what other pictures tell."""
        return {
            "cosine_of_samples": float(self.cosine.mean()),
            "cosine_of_reconstruction": self.rebuilt,
            "agreement": self.agreement,
            "cosine_of_others": float(self.others.mean()) if len(self.others) else None,
            "variance_open": self.variance_open,
        }


def layer_views(
    interpreters: Sequence[Interpreter],
    picture: Tensor,
    n: int = 8,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    others: Tensor | Sequence[Others] | None = None,
) -> list[LayerView]:
    """Each interpreter's view of one picture; those with latents of one shape share their invariances.

    Args:
        interpreters: One for each layer.
        picture: (3, H, W) or (1, 3, H, W) in [-1, 1].
        n: Samples for each layer.
        temperature: 1 for true samples; lower shows less variety.
        generator: Makes them repeat.
        others: Pictures (m, 3, H, W) to compare with, or for each interpreter what `others_of` gave; those equal to the
            picture are left out.
    """
    drawn: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    views = []
    for number, interpreter in enumerate(interpreters):
        shape = tuple(interpreter.flow.latent_shape)
        if shape not in drawn:
            shown = invariances(interpreter, 1, n, temperature, generator)
            enough = temperature == 1 and n >= _DRAWS
            drawn[shape] = shown, shown if enough else invariances(interpreter, 1, _DRAWS, 1.0, generator)
        if isinstance(others, Tensor):
            beside = others_of(interpreter, others) if len(others) else None
        else:
            beside = None if others is None else others[number]
        views.append(_view(interpreter, picture, drawn[shape], beside))
    return views


@torch.no_grad()
def told_by(
    interpreter: Interpreter, pictures: Tensor, samples: Tensor, reconstructions: Tensor | None
) -> list[dict[str, float | None]]:
    """What the network finds in samples (N, n, 3, S, S) of pictures (N, 3, H, W): for each picture means over its n.

    Cosines are of representations, of the picture's with its samples' and with its reconstruction's; `agreement` is
    the share of samples that the network gives the picture's class. None where there is no encoder, or no classes.
    """
    found = []
    for number, (picture, own) in enumerate(
        zip(interpreter.resized(pictures), samples.to(interpreter.device))
    ):
        z, made = interpreter.represent(picture[None]), [own]
        if reconstructions is not None:
            made.append(reconstructions[number][None].to(own))
        seen = torch.cat([interpreter.represent(part) for part in in_chunks(torch.cat(made))])
        close = cosine(seen, z.expand_as(seen))
        classes = [predicted(interpreter, each) for each in (picture[None], own)]
        found.append(
            {
                "cosine_of_samples": float(close[: len(own)].mean()),
                "cosine_of_reconstruction": None if reconstructions is None else float(close[-1]),
                "agreement": _agreement(*classes),
            }
        )
    return found


def _agreement(own: Tensor | None, theirs: Tensor | None) -> float | None:
    """Share of predictions (n, K) with the class of one (1, K); None without classes."""
    if own is None or theirs is None:
        return None
    return float((theirs.argmax(1) == own.argmax(1)).double().mean())


@torch.no_grad()
def _view(
    interpreter: Interpreter, picture: Tensor, drawn: tuple[Tensor, Tensor], others: Others | None
) -> LayerView:
    image = interpreter.resized(picture)
    z = interpreter.represent(image)
    shown, true = (each.to(interpreter.device) for each in drawn)
    latents = latents_of(interpreter, shown, z, fresh=True)
    samples = interpreter.decode(latents)[0]
    seen = torch.cat([interpreter.represent(part) for part in in_chunks(samples)])
    rebuilt = interpreter.reconstruct(image) if interpreter.encodes else None
    apart = _apart(image, others)
    far = z[:0] if others is None else others.z[apart]
    agreement = _agreement(predicted(interpreter, image), predicted(interpreter, samples))
    variance_open = None
    if others is not None and others.latents is not None and int(apart.sum()) > 1:
        same = latents if drawn[0] is drawn[1] else latents_of(interpreter, true, z, fresh=True)
        variance_open = _ratio(same[0].flatten(1), others.latents[apart])
    return LayerView(
        interpreter.representation.network_name,
        interpreter.representation.layer,
        image[0].cpu(),
        None if rebuilt is None else rebuilt[0].cpu(),
        samples.cpu(),
        cosine(seen, z.expand_as(seen)).cpu(),
        cosine(far, z.expand_as(far)).cpu(),
        None if rebuilt is None else float(cosine(interpreter.represent(rebuilt), z)),
        agreement,
        variance_open,
    )


def _apart(image: Tensor, others: Others | None) -> Tensor:
    """Which of the others are other pictures, (m,)."""
    if others is None:
        return torch.zeros(0, dtype=torch.bool)
    apart: Tensor = (others.images - image).abs().flatten(1).amax(1) > 1e-3
    return apart


def _ratio(some: Tensor, all_: Tensor) -> float | None:
    """Variance of some latents (n, D) by that of all (m, D)."""
    total = float(all_.var(dim=0).sum())
    return float(some.var(dim=0).sum()) / total if total > 0 else None
