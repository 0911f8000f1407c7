"""`shapes_*`: the classifiers, the autoencoder and the factor readers of the drawn world, from nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.images import to_uint8
from invariances.data.shapes import Shapes
from invariances.evaluation.factors import kept_by_probe, reading_quality
from invariances.recipes.shapes_flows import build_flows
from invariances.representation.representation import Representation
from invariances.system.machine import bfloat16
from invariances.training.autoencoder import fit_autoencoder
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.classifier import Lesson, accuracy, train_classifier
from invariances.training.config import Precision, RunConfig
from invariances.training.readers import fit_readers
from invariances.zoo.factor_reader import FactorReader, load_readers, save_readers
from invariances.zoo.loading import load_autoencoder
from invariances.zoo.small_resnet import load_classifier, save_classifier

CLASSIFIERS: dict[str, tuple[dict[str, Any], int]] = {
    "shapes_shape": ({"target": "shape"}, 500),
    "shapes_texture": ({"target": "texture"}, 900),
    "shapes_colour": ({"target": "foreground_hue"}, 1500),
    "shapes_cue": ({"target": "shape", "correlate": ("shape", "texture")}, 400),
}
"""The world that each classifier sees, and its training steps."""
PROBES: tuple[tuple[str, tuple[str, ...], int, int], ...] = (
    ("shapes_shape", ("stage1", "stage2", "stage3", "stage4"), 16, 3000),
    ("shapes_shape", ("pool", "logits", "softmax"), 12, 4000),
    ("shapes_texture", ("stage2", "stage3"), 16, 3000),
    ("shapes_texture", ("pool", "logits", "softmax"), 12, 4000),
    ("shapes_cue", ("stage3",), 12, 3000),
    ("shapes_cue", ("logits",), 12, 4000),
)
"""Network, layers, and the width and training steps of their probes; shorter ones miss what a layer shows faintly."""
VECTORS, VECTOR_BATCH, PICTURE_BATCH = 240_000, 512, 96
"""Pictures whose vectors are computed once for their probes, how many a step of these sees, and how many pictures are
drawn anew for a step of other readers."""
SMALL = 2048
"""Values of a representation up to which it is computed once, like a vector."""
VECTOR_MUON: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.02, "weight_decay": 0.1}
"""How probes of vectors learn."""
OBJECTIVE = Objective(perceptual=0.1, kl=1e-4, adversarial=0.0)
SCHEDULE = Schedule(steps=14_200, batch_size=32, learning_rate=1.2e-3, ema=0.998, flip=False, shift=0)
ENDLESS, TEST = 1_000_000, 2000
TEST_SEED, CALIBRATION_SEED = 2, 32


def build(output: str | Path, precision: Precision = "bf16-mixed", shortened: float = 1.0) -> dict[str, Any]:
    """Train all models and write `shapes_*.safetensors` (float16) to `output`; what they reach is returned.

    A stopped run goes on: models that `output` holds already are measured, not trained again.

    Args:
        output: folder to write to.
        precision: Lightning's, of the autoencoder; bfloat16 also serves the readers where it says so.
        shortened: share of the steps to train, to try the recipe out.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    reached: dict[str, Any] = {}
    networks = {}
    for name, (world, steps) in CLASSIFIERS.items():
        networks[name], reached[name] = build_classifier(folder, name, world, _short(steps, shortened))
    vae = build_autoencoder(folder, networks, precision, shortened)
    readers = build_readers(folder / "shapes_reader.safetensors", networks, vae, precision, shortened)
    reached["reader"] = reading_quality(readers["reader"].read(_decoded(vae)), _test().factors(range(TEST)))
    reached["probe"] = {
        name: probe_table(networks[name], {layer: readers[f"{name}/{layer}"] for layer in layers})
        for name, layers in _probed().items()
    }
    print("\n".join(_lines("", reached)), file=sys.stderr)
    build_flows(folder, precision, shortened)
    return reached


def _lines(name: str, reached: Any) -> list[str]:
    """Accuracies, and tables of factors, as text."""
    if not isinstance(reached, dict):
        return [f"{name}: {reached:.3f}"]
    if any(isinstance(value, dict) for value in reached.values()) or not name:
        return [line for key, value in reached.items() for line in _lines(f"{name} {key}".strip(), value)]
    return [f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in reached.items())]


def _probed() -> dict[str, list[str]]:
    """The layers of each network that have a probe."""
    layers: dict[str, list[str]] = {}
    for name, some, _, _ in PROBES:
        layers.setdefault(name, []).extend(some)
    return layers


def build_classifier(
    folder: Path, name: str, world: Mapping[str, Any], steps: int
) -> tuple[nn.Module, float]:
    """One classifier and its accuracy on pictures of another seed."""
    path, test = folder / f"{name}.safetensors", Shapes(TEST, seed=TEST_SEED, **world)
    if not path.exists():
        learnt = train_classifier(Shapes(ENDLESS, seed=1, **world), lesson=Lesson(steps), description=name)
        save_classifier(learnt, path, accuracy=accuracy(learnt, test, TEST))
    network = load_classifier(path)
    return network, accuracy(network, test, TEST)


def build_autoencoder(
    folder: Path, networks: Mapping[str, nn.Module], precision: Precision, shortened: float
) -> nn.Module:
    """`shapes_vae`: 64 latents; early layers of the shape and texture classifiers compare pictures."""
    path = folder / "shapes_vae.safetensors"
    if path.exists():
        return load_autoencoder(path)
    world, count = Shapes(40_000, seed=11), max(200, _short(40_000, shortened))
    pictures = torch.cat([to_uint8(world.images(part)) for part in torch.split(torch.arange(count), 1000)])
    held_out = to_uint8(Shapes(192, seed=12).images(range(192)))
    eyes = [
        Representation.many(networks[name], ["stage1", "stage2"])
        for name in ("shapes_shape", "shapes_texture")
    ]
    steps = _short(SCHEDULE.steps, shortened)
    torch.manual_seed(0)
    vae = fit_autoencoder(
        pictures,
        held_out,
        vae=VAE(64, 64, width=48, max_width=128),
        perceptual=eyes,
        objective=OBJECTIVE,
        schedule=Schedule(**{**SCHEDULE.__dict__, "steps": steps}),
        run=RunConfig(
            str(folder / "shapes_vae"), resume=True, precision=precision, checkpoint_every=min(500, steps)
        ),
    )
    return load_autoencoder(save_autoencoder(vae, path, torch.float16))


def build_readers(
    path: Path, networks: Mapping[str, nn.Module], vae: nn.Module, precision: Precision, shortened: float
) -> dict[str, FactorReader]:
    """The reader of pictures and the probes of all networks, by name; written after each that is made."""
    half = precision == "bf16-mixed" and bfloat16()
    readers = load_readers(path) if path.exists() else {}
    if "reader" not in readers:
        readers["reader"] = build_reader(vae, _short(1200, shortened), half)
        save_readers(readers, path)
    for name, layers, width, steps in PROBES:
        missing = [layer for layer in layers if f"{name}/{layer}" not in readers]
        if missing:
            probes = build_probes(networks[name], missing, width, _short(steps, shortened), half)
            readers |= {f"{name}/{layer}": probe for layer, probe in probes.items()}
            save_readers(readers, path)
    return load_readers(path)


def build_reader(vae: nn.Module, steps: int, half: bool) -> FactorReader:
    """Reads every factor; three quarters of its lessons are decoded samples of the posterior, the rest as drawn."""
    world = Shapes(ENDLESS, seed=21)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    reader = FactorReader((3, 64, 64), 24)

    @torch.no_grad()
    def lesson(indices: Tensor) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        batch = world.batch(indices)
        drawn = batch["image"]
        count = 3 * len(drawn) // 4
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            decoded = vae.decode(vae.encode(drawn[:count]).sample(generator)).float()  # type: ignore[operator]
        return {"reader": torch.cat([decoded, drawn[count:]])}, batch["factors"]

    fit_readers(
        {"reader": reader},
        lesson,
        ENDLESS,
        steps=steps,
        batch_size=PICTURE_BATCH,
        learning_rate=4e-3,
        half=half,
    )
    return reader


def build_probes(
    network: nn.Module,
    layers: Sequence[str],
    width: int,
    steps: int,
    half: bool,
) -> dict[str, FactorReader]:
    """One probe for each layer, trained together, calibrated on pictures of another seed.

    Where all layers are small, what they hold of `VECTORS` pictures is computed once; else pictures are drawn anew.

    Args:
        network: its classifier.
        layers: names.
        width: as of `FactorReader`.
        steps: of training.
        half: compute in bfloat16 where pictures are drawn anew.
    """
    world, taps = Shapes(ENDLESS, seed=31), Representation.many(network, list(layers))
    small = all(math.prod(taps[layer].shape) <= SMALL for layer in layers)
    known = _features(taps, Shapes(min(VECTORS, steps * VECTOR_BATCH), seed=31)) if small else {}
    torch.manual_seed(0)
    probes = {
        layer: FactorReader(taps[layer].shape, width, probabilities=taps[layer].probabilities)
        for layer in layers
    }

    @torch.no_grad()
    def lesson(indices: Tensor) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        if small:
            return {layer: z[indices] for layer, z in known.items()}, world.factors(indices)
        batch = world.batch(indices)
        return dict(taps(batch["image"])), batch["factors"]

    description = f"probes of {', '.join(layers)}"
    if small:
        count = len(known[layers[0]])
        fit_readers(
            probes,
            lesson,
            count,
            steps=steps,
            batch_size=VECTOR_BATCH,
            description=description,
            **VECTOR_MUON,
        )
    else:
        fit_readers(
            probes, lesson, ENDLESS, steps=steps, batch_size=PICTURE_BATCH, half=half, description=description
        )
    kept_out = Shapes(TEST, seed=CALIBRATION_SEED)
    for layer, z in _features(taps, kept_out).items():
        probes[layer].calibrate(z, kept_out.factors(range(TEST)))
    return probes


@torch.no_grad()
def probe_table(network: nn.Module, probes: Mapping[str, FactorReader]) -> dict[str, dict[str, float]]:
    """Share of each factor that each layer keeps, by its probe, on test pictures."""
    truth, features = (
        _test().factors(range(TEST)),
        _features(Representation.many(network, list(probes)), _test()),
    )
    return {
        layer: kept_by_probe(torch.cat([probes[layer](part) for part in torch.split(z, 250)]), truth)
        for layer, z in features.items()
    }


def _test() -> Shapes:
    return Shapes(TEST, seed=TEST_SEED)


@torch.no_grad()
def _features(taps: Any, world: Shapes) -> dict[str, Tensor]:
    chunks = torch.split(torch.arange(len(world)), 250)
    bar = tqdm(chunks, desc=f"reading {', '.join(taps.names)}", unit="chunk", delay=5)
    parts = [taps(world.images(part)) for part in bar]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}


@torch.no_grad()
def _decoded(vae: nn.Module) -> Tensor:
    parts = torch.split(torch.arange(TEST), 100)
    return torch.cat([vae.decode(vae.encode(_test().images(part)).mode()) for part in parts])  # type: ignore[operator]


def _short(steps: int, share: float) -> int:
    return max(2, round(steps * share))
