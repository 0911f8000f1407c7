"""All numbers of one interpreter on pictures kept out."""

from __future__ import annotations

import math
from typing import Any

import torch

from invariances.evaluation.faithfulness import faithfulness, image_batches
from invariances.evaluation.fid import Distance, feature_space
from invariances.evaluation.invariance import bits_per_dim, variance
from invariances.features.stream import Features
from invariances.interpreter import Interpreter
from invariances.system.seeds import seeded


def evaluate(
    interpreter: Interpreter,
    pictures: Any,
    features: Features,
    *,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The numbers of one interpreter on pictures kept out and their features; arguments as of `evaluate_run`."""
    shown = pictures if limit is None or limit >= len(pictures) else _First(pictures, limit)
    result: dict[str, Any] = {
        "pictures": features.n,
        "pictures_sampled": len(shown),
        "samples_per_picture": n,
        "temperature": temperature,
        "seed": seed,
        "nll_bits_per_dim": bits_per_dim(interpreter.flow, features),
        "unconditional_nll_bits_per_dim": None,
    }
    result |= variance(interpreter.flow, features, seed=seed)
    result |= faithfulness(interpreter, shown, n, temperature, seed, progress=progress)
    result["fid"] = None if fid == "none" else _fid(interpreter, shown, fid, temperature, seed)
    return result


class _First:
    def __init__(self, pictures: Any, count: int) -> None:
        self.pictures, self.count = pictures, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.pictures[index]


@torch.no_grad()
def _fid(interpreter: Interpreter, pictures: Any, name: str, temperature: float, seed: int) -> dict[str, Any]:
    """FID of one sample per picture, and of the reconstructions, against the pictures."""
    space = feature_space(name, interpreter.representation)
    distances = {each: Distance(space, interpreter.device) for each in ("samples", "reconstructions")}
    for indices, raw in image_batches(pictures, 16):
        images = interpreter.resized(raw)
        generator = seeded("fid", seed, int(indices[0]))
        made = {
            "samples": interpreter.sample(images, 1, temperature, generator)[:, 0],
            "reconstructions": interpreter.reconstruct(images),
        }
        for each, distance in distances.items():
            distance.add(images, True)
            distance.add(made[each], False)
    values = {each: distance.value() for each, distance in distances.items()}
    return {"features": space.name, "pictures": len(pictures), **values}


def finite(value: Any) -> Any:
    """`value` with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
