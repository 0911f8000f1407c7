"""Adversarial attacks: a change too small to see, what the network sees instead, and noise of equal strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invariances.evaluation.faithfulness import relative_l2
from invariances.experiments.samples import in_chunks, invariances, needs_encoder, pictures_of
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation, Representations
from invariances.system.errors import UserError

Method = Literal["fgsm", "pgd"]
STEPS = 20


@dataclass(frozen=True)
class Attack:
    """An attack on N pictures, and what a layer makes of it.

    Attributes:
        original, attacked, noisy: Pictures (N, 3, S, S); the noise is as long as the perturbation, in ‖·‖₂.
        probabilities: Of the network for the three, {"original": (N, classes), …}.
        target: The class aimed at, (N,); None where the attack leads away from the network's own prediction.
        reconstruction, attacked_reconstruction: What the autoencoder alone makes of both.
        seen: Invariances of the original, representation of the attacked: what the network sees.
        noise_seen: The same with the noise in place of the attack.
        samples, attacked_samples: (N, n, 3, S, S); sample i of both has the same invariances.
        movement: Layer → ‖z' − z‖ / ‖z‖ of the attacked and of the noisy picture, each (N,).
    """

    original: Tensor
    attacked: Tensor
    noisy: Tensor
    probabilities: dict[str, Tensor]
    target: Tensor | None
    reconstruction: Tensor
    attacked_reconstruction: Tensor
    seen: Tensor
    noise_seen: Tensor
    samples: Tensor
    attacked_samples: Tensor
    movement: dict[str, tuple[Tensor, Tensor]]

    def tiles(self) -> Tensor:
        """One row a picture, (N, 5 + 2 n, 3, S, S): as it is, attacked, its reconstruction, seen, noise, the pairs."""
        single = (self.original, self.attacked, self.attacked_reconstruction, self.seen, self.noise_seen)
        pairs = torch.stack([self.samples, self.attacked_samples], dim=2).flatten(1, 2)
        return torch.cat([torch.stack(single, dim=1), pairs], dim=1)

    def numbers(self, class_names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One object a picture: the three best classes before and after, and how far each layer moved."""
        rows = []
        for at in range(len(self.original)):
            row: dict[str, Any] = {
                f"predicted_{name}": top(each[at], class_names) for name, each in self.probabilities.items()
            }
            row["largest_change"] = float((self.attacked[at] - self.original[at]).abs().max())
            row["movement"] = {
                layer: {"attack": float(one[at]), "noise": float(two[at])}
                for layer, (one, two) in self.movement.items()
            }
            rows.append(row)
        return rows


def top(probabilities: Tensor, class_names: Sequence[str] | None, n: int = 3) -> list[dict[str, Any]]:
    """The n most probable classes of (classes,) with their probabilities."""
    best = probabilities.topk(min(n, len(probabilities)))
    return [
        {"class": class_names[k] if class_names else f"class {k}", "probability": p}
        for k, p in zip(best.indices.tolist(), best.values.tolist())
    ]


def perturbed(
    representation: Representation,
    images: Tensor,
    method: Method = "fgsm",
    epsilon: float = 0.02,
    target: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Pictures (N, 3, H, W) no further than ε from `images` in any value, in [-1, 1], that fool the network.

    FGSM (Goodfellow et al. 2015) takes one step x + ε · sign ∇ L. PGD (Madry et al. 2018) takes 20 steps of
    2.5 ε / 20 from a random place of the ball and returns to the ball after each. L is the cross-entropy of the
    network's own prediction, or minus that of a target.

    Args:
        representation: Of the network; gradients go through its `logits`.
        images: In [-1, 1].
        method: "fgsm" or "pgd".
        epsilon: Radius of the ball, on the scale of [-1, 1].
        target: Classes (N,) to be taken for.
        start: For PGD, where in the ball to start: uniform in [-1, 1], as `images`.

    Raises:
        UserError: A radius below 0, or an unknown class or method.
    """
    if method not in ("fgsm", "pgd"):
        raise UserError(f"method is {method!r}; use 'fgsm' or 'pgd'")
    if not 0 <= epsilon <= 2:
        raise UserError(f"epsilon is {epsilon}; give a number from 0 to 2, the range of values being [-1, 1]")
    with torch.no_grad():
        logits = representation.logits(images)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise UserError(
            f"{representation.network_name} tells no classes apart, so there is nothing to attack"
        )
    classes = logits.shape[1]
    if target is not None and not bool(((target >= 0) & (target < classes)).all()):
        raise UserError(f"target is {target.tolist()}; give a class from 0 to {classes - 1}")
    sign, labels = (1.0, logits.argmax(1)) if target is None else (-1.0, target.to(images.device))
    low, high = (images - epsilon).clamp(-1, 1), (images + epsilon).clamp(-1, 1)
    if method == "fgsm":
        return _within(images + sign * epsilon * _slope(representation, images, labels), low, high)
    found = images if start is None else _within(images + epsilon * start, low, high)
    for _ in range(STEPS):
        step = 2.5 * epsilon / STEPS * sign * _slope(representation, found, labels)
        found = _within(found + step, low, high)
    return found


def _within(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(images, low), high)


def _slope(representation: Representation, images: Tensor, labels: Tensor) -> Tensor:
    """Sign of ∇ₓ Σ cross-entropy; each picture's is its own, whatever others are in the batch."""
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_(True)
        loss = F.cross_entropy(representation.logits(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient.sign()


def noise_like(images: Tensor, attacked: Tensor, signs: Tensor) -> Tensor:
    """Pictures moved by random signs, each exactly as far as its attacked one in ‖·‖₂, in [-1, 1].

    Where a sign would leave the range, the other one is taken.

    Args:
        images: The originals.
        attacked: Decides the distance.
        signs: Of ±1, as `images`.
    """
    distance = (attacked - images).flatten(1).norm(dim=1) / images[0].numel() ** 0.5
    step = distance.view(-1, 1, 1, 1) * signs
    return torch.where((images + step).abs() > 1, images - step, images + step).clamp(-1, 1)


def attack(
    interpreter: Interpreter,
    images: Tensor,
    method: Method = "fgsm",
    epsilon: float = 0.02,
    target: int | None = None,
    n: int = 3,
    generator: torch.Generator | None = None,
    layers: Sequence[str] = (),
) -> Attack:
    """Attacks pictures, and shows what the layer makes of them.

    Args:
        interpreter: With an encoder, of a network with classes.
        images: (N, 3, H, W) or (3, H, W) in [-1, 1].
        method: "fgsm" or "pgd".
        epsilon: Largest change of a value, on [-1, 1].
        target: A class to be taken for; by default away from the network's own prediction.
        n: Pairs of samples for each picture.
        generator: Makes noise and samples repeat.
        layers: Where to measure how far the representation moved; the interpreter's own is always among them.

    Raises:
        UserError: As `perturbed`, or the interpreter has no encoder.
    """
    needs_encoder(interpreter, "an attack's picture")
    representation, original = interpreter.representation, interpreter.resized(images)
    count, device = len(original), original.device
    v = invariances(interpreter, count, n, generator=generator)
    signs = (torch.randint(0, 2, original.shape, generator=generator) * 2.0 - 1).to(device)
    start = (torch.rand(original.shape, generator=generator) * 2 - 1).to(device)
    aim = None if target is None else torch.full((count,), target, dtype=torch.long, device=device)
    parts = []
    for part, begin in zip(in_chunks(original), in_chunks(start)):
        aims = None if aim is None else aim[: len(part)]
        parts.append(perturbed(representation, part, method, epsilon, aims, begin))
    attacked = torch.cat(parts)
    three = {"original": original, "attacked": attacked, "noisy": noise_like(original, attacked, signs)}
    return _seen(interpreter, three, v, aim, layers)


@torch.no_grad()
def _seen(
    interpreter: Interpreter, three: dict[str, Tensor], v: Tensor, aim: Tensor | None, layers: Sequence[str]
) -> Attack:
    """What layer and network make of the original, the attacked and the noisy pictures."""
    z = {name: torch.cat([interpreter.represent(p) for p in in_chunks(each)]) for name, each in three.items()}
    own = torch.cat([interpreter.encode(part) for part in in_chunks(three["original"])])[:, None]
    changed = torch.cat([z["attacked"], z["noisy"]])
    seen, noise_seen = pictures_of(interpreter, torch.cat([own, own]), changed)[:, 0].cpu().chunk(2)
    told = torch.cat([z["original"], z["attacked"]])
    samples, attacked_samples = pictures_of(interpreter, torch.cat([v, v]), told, fresh=True).cpu().chunk(2)
    return Attack(
        original=three["original"].cpu(),
        attacked=three["attacked"].cpu(),
        noisy=three["noisy"].cpu(),
        probabilities={
            name: _probabilities(interpreter.representation, each) for name, each in three.items()
        },
        target=None if aim is None else aim.cpu(),
        reconstruction=interpreter.reconstruct(three["original"]).cpu(),
        attacked_reconstruction=interpreter.reconstruct(three["attacked"]).cpu(),
        seen=seen,
        noise_seen=noise_seen,
        samples=samples,
        attacked_samples=attacked_samples,
        movement=_movement(interpreter.representation, three, layers),
    )


def _probabilities(representation: Representation, images: Tensor) -> Tensor:
    return torch.cat([representation.logits(part).softmax(1) for part in in_chunks(images)]).cpu()


def _movement(
    representation: Representation, three: dict[str, Tensor], layers: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    names = list(
        dict.fromkeys([*layers, *([] if representation.layer in layers else [representation.layer])])
    )
    taps = Representations([representation.at(name) for name in names])
    moved: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in names}
    for x, y, noise in zip(*(in_chunks(each) for each in three.values())):
        before, after, beside = taps(x), taps(y), taps(noise)
        for name in names:
            moved[name][0].append(relative_l2(before[name], after[name]).cpu())
            moved[name][1].append(relative_l2(before[name], beside[name]).cpu())
    return {name: (torch.cat(one), torch.cat(two)) for name, (one, two) in moved.items()}
