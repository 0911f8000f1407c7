"""Semantic factors of drawn shapes: e is taught by families that share some, and edits are read by the shipped reader.

python -m invariances.recipes.shapes_edits edits
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invariances.data.shapes import FACTORS, Shapes, draw
from invariances.evaluation.factors import reading_quality
from invariances.flow.semantic import SemanticFlow
from invariances.interpreter import Interpreter
from invariances.system.files import atomic, check_writable
from invariances.system.network_file import read_network, save_network
from invariances.system.seeds import seeded
from invariances.training.semantic import train_semantic
from invariances.zoo.factor_reader import FactorReader
from invariances.zoo.loading import load, load_autoencoder

SIZES = {name: len(each.kinds) - 1 if each.discrete else 1 + each.circular for name, each in FACTORS.items()}
"""Dimensions of each factor in a code: kinds are corners of a simplex, hues lie on a circle, the others on a line."""
FAMILIES, MEMBERS, STEPS = 13_000, 4, 700
SEEDS, TEST, TEST_SEED = (51, 52), 300, 54


def family_factors(families: int, members: int = MEMBERS) -> dict[str, Tensor]:
    """Factors (families, members) of pictures that take each at random from one of two: half is shared by any two."""
    one, other = (Shapes(families, seed=seed).factors(range(families)) for seed in SEEDS)
    chosen = torch.rand(len(FACTORS), families, members, generator=seeded("families", families)) < 0.5
    return {
        name: torch.where(which, one[name][:, None], other[name][:, None])
        for name, which in zip(FACTORS, chosen)
    }


@torch.inference_mode()
def encoded(autoencoder: nn.Module, factors: Mapping[str, Tensor], half: bool = True) -> Tensor:
    """Means (N, D) of drawn pictures' posteriors; factors (N,) each."""
    means = []
    for part in torch.split(torch.arange(len(factors["shape"])), 250):
        pictures = draw({name: each[part] for name, each in factors.items()}, 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            means.append(autoencoder.encode(pictures).mean.float())  # type: ignore[operator]
    return torch.cat(means)


def numbered(factors: Mapping[str, Tensor]) -> Tensor:
    """(families, members, K) numbers, equal where pictures share a factor; factors (families, members) each."""
    return torch.stack([torch.unique(each, return_inverse=True)[1] for each in factors.values()], dim=-1)


def trained(autoencoder: nn.Module, shortened: float = 1.0, half: bool = True) -> SemanticFlow:
    """E of the autoencoder, from drawn families.

    Args:
        autoencoder: Of pictures of 64 pixels, with vectors for latents.
        shortened: Share of the steps and families, to try the recipe out.
        half: Encode in bfloat16.
    """
    factors = family_factors(max(16, round(FAMILIES * shortened)))
    latents = encoded(autoencoder, {name: each.flatten() for name, each in factors.items()}, half)
    torch.manual_seed(0)
    flow = SemanticFlow(latents.shape[1], SIZES)
    latents = latents.view(-1, MEMBERS, latents.shape[1])
    return train_semantic(flow, latents, numbered(factors), max(2, round(STEPS * shortened)))


@torch.inference_mode()
def edit_scores(
    flow: SemanticFlow, autoencoder: nn.Module, reader: FactorReader, n: int = TEST, half: bool = True
) -> dict[str, Any]:
    """What the reader reads of edits, each of one factor, to that of another picture kept out.

    Args:
        flow: e.
        autoencoder: Of the latents.
        reader: Of decoded pictures.
        n: Pictures.
        half: Encode and decode in bfloat16.

    Returns:
        `reconstruction`: how well each factor is read of D(E(x)): share of right kinds, or R². `edits.F.G`: the same of
        edits of F, where F is to be the other picture's (of another kind, if it has kinds) and G ≠ F to be as it was.
    """
    truth = Shapes(n, seed=TEST_SEED).factors(range(n))
    latents = encoded(autoencoder, truth, half)

    def read(codes: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts = [autoencoder.decode(part).float() for part in torch.split(codes, 200)]  # type: ignore[operator]
        return reader.read(torch.cat(parts).clamp(-1, 1))

    found: dict[str, Any] = {"reconstruction": reading_quality(read(latents), truth), "edits": {}}
    for name, factor in FACTORS.items():
        wanted = {**truth, name: truth[name].roll(1)}
        counted = wanted[name] != truth[name] if factor.discrete else torch.ones(n, dtype=torch.bool)
        seen = read(flow.edit(latents, name, latents.roll(1, 0)))
        found["edits"][name] = reading_quality(
            {key: each[counted] for key, each in seen.items()},
            {key: each[counted] for key, each in wanted.items()},
        )
    return found


def kept_by_layers(
    flow: SemanticFlow, autoencoder: nn.Module, network: str, layers: tuple[str, ...], n: int = TEST
) -> dict[str, dict[str, float]]:
    """Share of each factor that the layers of a shipped interpreter keep, by e of 4 samples of each picture."""
    world = Shapes(n, seed=TEST_SEED)
    pictures, latents = world.images(range(n)), encoded(autoencoder, world.factors(range(n)))
    found = {}
    for layer in layers:
        interpreter = Interpreter.load(network, layer=layer)
        z = torch.cat([interpreter.represent(part) for part in torch.split(pictures, 200)])
        found[layer] = flow.kept(latents, interpreter.flow.sample(z, 4, generator=seeded("kept")))
    return found


def save_semantic(flow: SemanticFlow, path: str | Path) -> None:
    """Writes e as float16 safetensors."""
    save_network(path, {"name": "SemanticFlow", **flow.config}, flow.state_dict(), torch.float16)


def load_semantic(path: str | Path) -> SemanticFlow:
    """What `save_semantic` wrote, frozen and in eval mode."""
    architecture, tensors = read_network(
        path,
        "SemanticFlow",
        "network of factors",
        "make it with `python -m invariances.recipes.shapes_edits`",
    )
    flow = SemanticFlow(**{key: each for key, each in architecture.items() if key != "name"})
    flow.load_state_dict(tensors)
    return flow.requires_grad_(False).eval()


def build_edits(output: str | Path, shortened: float = 1.0) -> dict[str, Any]:
    """Trains e for `shapes_vae` (10 minutes of a busy core), writes `factors.safetensors` and `edits.json`, its result.

    Args:
        output: Folder to write to.
        shortened: Share of the training.
    """
    folder = Path(output)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    autoencoder, path = load_autoencoder("shapes_vae"), folder / "factors.safetensors"
    if not path.exists():
        save_semantic(trained(autoencoder, shortened), path)
    flow, reader = load_semantic(path), load("shapes_reader")
    assert isinstance(reader, FactorReader)
    found = edit_scores(flow, autoencoder, reader, max(20, round(TEST * shortened)))
    with atomic(folder / "edits.json") as place:
        place.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return found


if __name__ == "__main__":
    print(json.dumps(build_edits(sys.argv[1] if len(sys.argv) > 1 else "edits"), indent=2))
