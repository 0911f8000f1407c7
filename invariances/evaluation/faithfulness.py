"""Do samples look to the network like the picture they come from?

Every sample is shown to the network again, and its representation and top class are compared with the picture's own.
Two yardsticks stand beside it: the autoencoder's reconstruction, which no sample can be expected to beat, and a
random other picture, which a sampler that knew nothing would not beat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from invariances.data.datasets import images_at
from invariances.interpreter import Interpreter
from invariances.system.errors import UserError
from invariances.system.seeds import seeded


class Pictures(Protocol):
    """A data set whose items have an `image` (3, H, W) in [-1, 1]."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, index: int, /) -> Any:
        """One picture."""


def cosine(z: Tensor, other: Tensor) -> Tensor:
    """⟨z, z'⟩ / (‖z‖ ‖z'‖) of representations (N, ...), each taken as one vector; (N,)."""
    similarity: Tensor = F.cosine_similarity(z.flatten(1).double(), other.flatten(1).double(), dim=1)
    return similarity


def relative_l2(z: Tensor, other: Tensor) -> Tensor:
    """‖z' − z‖ / ‖z‖ of representations (N, ...), each taken as one vector; (N,)."""
    z, other = z.flatten(1).double(), other.flatten(1).double()
    distance: Tensor = (other - z).norm(dim=1) / z.norm(dim=1).clamp_min(1e-12)
    return distance


def scaled(value: float, random: float, reconstruction: float) -> float | None:
    """(value − random) / (reconstruction − random): 0 as a random other picture, 1 as the reconstruction.

    None where the two are alike, so that nothing can be measured (a layer that gives the same for all pictures).
    """
    span = reconstruction - random
    return None if abs(span) < 1e-6 else (value - random) / span


def derangement(count: int, seed: int) -> Tensor:
    """For each of `count` pictures another one, chosen at random; (count,). One picture alone gets itself."""
    order = torch.randperm(count, generator=seeded("others", seed))
    others = torch.empty_like(order)
    others[order] = order.roll(-1)
    return others


def image_batches(pictures: Pictures, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices (B,), images (B, 3, H, W)) of all pictures in order."""
    for start in range(0, len(pictures), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(pictures)))
        yield indices, images_at(pictures, indices.tolist())


@torch.no_grad()
def faithfulness(
    interpreter: Interpreter,
    pictures: Pictures,
    n: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
    look: Callable[[Tensor], None] | None = None,
) -> dict[str, Any]:
    """How well the network recognises its own samples.

    Args:
        interpreter: Network, autoencoder and flow.
        pictures: Kept out of training, at least two for the yardstick of random others.
        n: Samples per picture.
        temperature: Of the samples.
        seed: Of samples and of the choice of others.
        batch_size: Pictures at a time; results do not depend on it beyond rounding.
        progress: A bar on stderr.
        look: Is shown the decoded samples (B, n, 3, H, W) of one batch of pictures after the other, in order, for
            whatever else is to be measured on them.

    Returns:
        `faithfulness_cosine`, `faithfulness_relative_l2`: means over pictures and samples of `cosine` and
        `relative_l2` between z of the picture and z of the sample, `scaled`; None where that is impossible.
        `cosine`, `relative_l2`: the means themselves, of samples, reconstructions and random other pictures.
        `top1_agreement`: share of samples whose top class is the picture's, and under
        `top1_agreement_reconstructions` and `top1_agreement_others` the same of the yardsticks; None for networks
        without classes. `autoencoder_mae`: mean |x − D(E(x))| over pixels in [-1, 1].
    """
    others = derangement(len(pictures), seed)
    sums: dict[str, float] = {}
    bar = tqdm(total=len(pictures), desc="samples seen again", unit="img", disable=not progress)
    for indices, raw in image_batches(pictures, batch_size):
        images = interpreter.resized(raw)
        z, classes = _seen(interpreter, images)
        other = images_at(pictures, others[indices].tolist())
        reconstructions = interpreter.reconstruct(images)
        shown = {"reconstructions": reconstructions[:, None], "others": interpreter.resized(other)[:, None]}
        latents = torch.cat(
            [
                interpreter.flow.sample(z[i : i + 1], n, temperature, seeded("samples", seed, int(index)))
                for i, index in enumerate(indices)
            ]
        )
        shown["samples"] = interpreter.decode(latents)
        if look is not None:
            look(shown["samples"])
        for name, many in shown.items():
            for column in many.unbind(1):
                z_shown, classes_shown = _seen(interpreter, column)
                share = 1 / (many.shape[1] * len(pictures))
                _add(sums, f"cosine {name}", cosine(z, z_shown), share)
                _add(sums, f"relative_l2 {name}", relative_l2(z, z_shown), share)
                if classes is not None and classes_shown is not None:
                    _add(sums, f"top1 {name}", classes == classes_shown, share)
        error = (images - reconstructions).abs().flatten(1).mean(dim=1)
        _add(sums, "mae", error, 1 / len(pictures))
        bar.update(len(indices))
    bar.close()
    result: dict[str, Any] = {}
    for measure in ("cosine", "relative_l2"):
        values = {name: sums[f"{measure} {name}"] for name in ("samples", "reconstructions", "others")}
        result[f"faithfulness_{measure}"] = scaled(
            values["samples"], values["others"], values["reconstructions"]
        )
        result[measure] = values
    result["top1_agreement"] = sums.get("top1 samples")
    result["top1_agreement_reconstructions"] = sums.get("top1 reconstructions")
    result["top1_agreement_others"] = sums.get("top1 others")
    result["autoencoder_mae"] = sums["mae"]
    return result


def _add(sums: dict[str, float], name: str, values: Tensor, share: float) -> None:
    sums[name] = sums.get(name, 0.0) + float(values.double().sum()) * share


def _seen(interpreter: Interpreter, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Representation and top class of pictures; None for networks whose output is no vector of classes."""
    try:
        z, logits = interpreter.representation.with_logits(images)
    except UserError:
        return interpreter.representation(images), None
    return z, logits.argmax(dim=1) if logits.dim() == 2 else None
