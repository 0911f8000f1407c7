"""The question answered in minutes: what do the layers of a small network keep of a picture, what do they ignore?

`quickstart()` trains a flow for some layers of a network that ships with the package (or of one for the user's own
photos), measures what samples keep, and writes one page with its numbers beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from invariances import zoo
from invariances.data.datasets import images_at
from invariances.data.images import spread
from invariances.data.shapes import Shapes, draw
from invariances.evaluation.factors import kept_by_probe, kept_by_samples
from invariances.evaluation.faithfulness import faithfulness
from invariances.evaluation.invariance import bits_per_dim, variance
from invariances.evaluation.numbers import finite
from invariances.flow.embedders.embedder import EmbedderKind
from invariances.flow.embedders.residual import gives_maps
from invariances.flow.flow import Transform
from invariances.interpreter import Interpreter
from invariances.recipes.shapes_models import CLASSIFIERS, SMALL, build_probes
from invariances.recipes.worlds import WEIGHT_DECAY, World, embedder_for, layers_worth_seeing, own_world
from invariances.report.quickstart_page import Story, write_page
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import atomic, check_writable
from invariances.system.machine import bfloat16, cores
from invariances.training.auxiliary import shallower
from invariances.training.data import CacheOptions, FeatureData
from invariances.training.fit import fit_layers, of_each
from invariances.zoo.factor_reader import FactorReader, load_readers

NETWORK, AUTOENCODER, READERS = "shapes_shape", "shapes_vae", "shapes_reader"


LAYERS = {"stage2": (0.6, 0.45), "stage3": (1.0, 0.5), "pool": (0.38, 0.66), "softmax": (0.29, 0.25)}
"""Layers, the share of the usual steps that each needs to find what its representation holds, and the share of these
in which its embedder learns."""


USUAL = (1.0, 0.6)
"""The same of other layers."""


CUE_NETWORK, CUE_LAYER, CUE_STEPS = "shapes_cue", "stage3", 0.43
"""The network that saw shape and texture agree, the layer that is sampled, and its share of the usual steps. No flow
that trains in minutes draws the right texture from its logits (docs/shapes.md), so that these are only probed."""


PAGE, SUMMARY = "index.html", "summary.json"


@dataclass(frozen=True)
class Effort:
    """How long quickstart trains and how closely it looks.

    Attributes:
        pictures: drawn for training; of own photos about as many random crops, where there are fewer.
        steps: of each flow; of the layers of `LAYERS` the share that stands there.
        batch_size: pictures per step; four times as many where a residual embedder reads vectors, which costs little.
        learning_rate: the highest; it rises over a fortieth of the steps and falls to zero.
        weight_decay: decoupled, of all weights; `own_pictures.WEIGHT_DECAY` for own photos.
        blocks: of each flow.
        width: of each flow's hidden layers.
        depth: hidden layers after the first.
        embedder: of each flow, "residual" or "published", or by the layer's name; own photos: `embedder_for` chooses
            in place of "residual".
        embedder_width: of a residual one.
        transform: of each flow, "coupling" or "continuous".
        auxiliary: layers whose channels a residual embedder of vectors guesses too, or None for those of `shallower`.
        regression: share of the steps in which it learns, or None for those of `LAYERS`, and 0.6 elsewhere.
        held_out: pictures that numbers are measured on.
        samples: per picture that is measured.
        probe_width: of probes to train on the layers; None takes those that ship. On drawn pictures only.
        probe_steps: of these, 512 pictures a step for vectors and small maps, 96 for others.
        processes: flows that train at once; at most as many as there are cores.
        autoencoder_steps: own photos only.
        classifier_steps: own photos only.
    """

    pictures: int = 18_000
    steps: int = 1200
    batch_size: int = 128
    learning_rate: float = 8e-3
    weight_decay: float = 0.2
    blocks: int = 6
    width: int = 128
    depth: int = 1
    embedder: EmbedderKind | Mapping[str, EmbedderKind] = "residual"
    embedder_width: int = 32
    transform: Transform = "coupling"
    auxiliary: Sequence[str] | None = None
    regression: float | None = None
    held_out: int = 320
    samples: int = 4
    probe_width: int | None = None
    probe_steps: int = 4000
    processes: int = 2
    autoencoder_steps: int = 3000
    classifier_steps: int = 600


def quickstart(
    output: str | Path = "quickstart",
    *,
    images: str | Path | None = None,
    network: str | None = None,
    layers: Sequence[str] | None = None,
    effort: Effort = Effort(),
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Train flows for some layers of one network, look at them, and write `index.html` and `summary.json`.

    Args:
        output: folder to write to; each layer's run lies there too.
        images: a folder of one's own photos in place of drawn pictures. An autoencoder is trained on them; folders
            per class inside of it also give the classifier.
        network: whose layers; by default the shipped shape classifier, or the one trained on the photos.
        layers: names, from the input to the output; by default some along the way.
        effort: how long to train and how much to measure.
        seed: of everything.
        progress: bars on stderr.

    Returns:
        What `summary.json` holds: `seconds`, and for each layer nll_bits_per_dim, faithfulness_cosine,
        top1_agreement, variance_remaining, and on drawn pictures `factors` and `probe`, kept shares by factor.

    Raises:
        UserError: folder, network or layers cannot be used; a flat folder of photos comes without `network`; probes
            shall read photos.
    """
    started = time.monotonic()
    folder = Path(output)
    check_writable(folder)
    # the classifier of own photos has the layers of the shipped one
    shapes = Representation.layers(network or NETWORK)
    for layer in layers or ():
        if layer not in shapes:
            raise UserError(
                f"there is no layer {layer!r} in {network or NETWORK}; "
                f"`invariances layers {network or NETWORK}` lists them"
            )
    if images is not None and effort.probe_width is not None:
        raise UserError("probes learn to read factors that drawn pictures alone have; leave probe_width out")
    if images is None:
        drawn = Shapes(effort.pictures, seed=1000 + seed), Shapes(effort.held_out, seed=2)
        world = World(*drawn, AUTOENCODER, network or NETWORK)
    else:
        world = own_world(images, folder, network, effort, seed, progress)
        effort = replace(effort, weight_decay=WEIGHT_DECAY)
    held_out = world.held_out
    usual = images is None and world.network in CLASSIFIERS
    chosen = list(layers or (list(LAYERS) if usual else layers_worth_seeing(shapes)))
    if len(set(chosen)) != len(chosen) or not chosen:
        raise UserError(f"layers {', '.join(chosen)} must be one or more different names")
    if images is not None and effort.embedder == "residual":
        effort = replace(effort, embedder={layer: embedder_for(shapes[layer]) for layer in chosen})
    fitted = _fit(world, chosen, shapes, folder, effort, seed, progress)
    readers = load_readers(zoo.fetch(READERS)) if images is None else {}
    truth = held_out.factors(range(len(held_out))) if isinstance(held_out, Shapes) else None
    reconstruction = _read_reconstructions(fitted[chosen[0]], held_out, readers)
    summary: dict[str, Any] = {
        "network": fitted[chosen[0]].representation.network_name,
        "autoencoder": AUTOENCODER if images is None else str(folder / "autoencoder"),
        "images": "Shapes" if images is None else str(images),
        "layers": {},
    }
    probes = {} if truth is None else _probes(fitted, readers, effort)
    for layer in tqdm(chosen, desc="looking at samples", unit="layer", disable=not progress):
        numbers = measure(fitted[layer], held_out, seed)
        if truth is None:
            numbers |= seen_again(fitted[layer], held_out, effort.samples, seed)
        else:
            factors, seen = sampled_factors(
                fitted[layer], held_out, readers["reader"], truth, reconstruction, effort.samples, seed
            )
            numbers |= {**seen, "factors": factors}
            if layer in probes:
                numbers["probe"] = probed_factors(
                    fitted[layer].representation, held_out, probes[layer], truth
                )
        summary["layers"][layer] = numbers
    story = Story(summary, fitted, _shown(held_out, 6, seed))
    if images is None and network is None and layers is None:
        effort = replace(effort, steps=max(1, round(CUE_STEPS * effort.steps)))
        cue = _fit(replace(world, network=CUE_NETWORK), [CUE_LAYER], shapes, folder, effort, seed, progress)
        story.cue, story.conflict = cue[CUE_LAYER], conflict_pictures(8)
        summary["cue"] = _cue(story.cue, held_out, readers, reconstruction, effort.samples, seed)
    summary["seconds"] = round(time.monotonic() - started, 1)
    with atomic(folder / SUMMARY) as draft:
        draft.write_text(json.dumps(finite(summary), indent=2) + "\n")
    write_page(story, folder / PAGE, seed)
    return summary


def _fit(
    world: World,
    layers: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    folder: Path,
    effort: Effort,
    seed: int,
    progress: bool,
) -> dict[str, Interpreter]:
    shares = {layer: LAYERS.get(layer, USUAL) for layer in layers}
    embedders: dict[str, EmbedderKind] = of_each(effort.embedder, layers)
    regressed = {
        layer for layer in layers if embedders[layer] == "residual" and not gives_maps(shapes[layer])
    }
    beside = {
        layer: (shallower(shapes, layer) if effort.auxiliary is None else effort.auxiliary)
        if layer in regressed
        else ()
        for layer in layers
    }
    fitted = fit_layers(
        world.network,
        layers,
        world.autoencoder,
        world.training,
        held_out=world.held_out,
        output=str(folder / "runs" / "{network}_{layer}"),
        steps={layer: max(1, round(effort.steps * share)) for layer, (share, _) in shares.items()},
        batch_size={layer: effort.batch_size * (4 if layer in regressed else 1) for layer in layers},
        learning_rate=effort.learning_rate,
        schedule="cosine",
        warmup=max(1, effort.steps // 40),
        ema=0.99,
        blocks=effort.blocks,
        width=effort.width,
        depth=effort.depth,
        embedder=embedders,
        embedder_width=effort.embedder_width,
        embedder_statistics=isinstance(world.training, Shapes),
        transform=effort.transform,
        regression={
            layer: first if effort.regression is None else effort.regression
            for layer, (_, first) in shares.items()
        },
        auxiliary=beside,
        optimizer={
            layer: "muon" if layer in regressed or effort.transform == "continuous" else "muon_embedder"
            for layer in layers
        },
        weight_decay=effort.weight_decay,
        cache=_cache(),
        checkpoint_every=max(effort.steps, 1),
        samples_every=max(effort.steps, 1),
        accelerator="cpu",
        seed=seed,
        processes=min(effort.processes, cores()),
        progress=progress,
    )
    for interpreter in fitted.values():
        interpreter.half = bfloat16()
    return fitted


def _cache() -> CacheOptions:
    """Large batches, and half precision on processors that compute in it."""
    return CacheOptions(batch_size=128, half=bfloat16())


def _probes(
    fitted: Mapping[str, Interpreter], readers: Mapping[str, FactorReader], effort: Effort
) -> dict[str, FactorReader]:
    """The probes that ship, of the layers that have one, or new ones of all."""
    cuts = {layer: interpreter.representation for layer, interpreter in fitted.items()}
    if effort.probe_width is None:
        names = {layer: f"{cut.network_name}/{layer}" for layer, cut in cuts.items()}
        return {layer: readers[name] for layer, name in names.items() if name in readers}
    probes: dict[str, FactorReader] = {}
    for small in (True, False):
        layers = [layer for layer, cut in cuts.items() if (math.prod(cut.shape) <= SMALL) == small]
        if layers:
            probes |= build_probes(
                cuts[layers[0]], layers, effort.probe_width, effort.probe_steps, bfloat16(), statistics=True
            )
    return probes


def measure(interpreter: Interpreter, held_out: Any, seed: int) -> dict[str, Any]:
    """Likelihood and remaining variance on pictures kept out."""
    data = FeatureData.of(held_out, held_out, cache=_cache(), progress=False)
    data.prepare([interpreter.representation], interpreter.autoencoder, training=False)
    features = data.held_out_features(interpreter.representation.layer)
    return {
        "nll_bits_per_dim": bits_per_dim(interpreter.flow, features),
        "variance_remaining": variance(interpreter.flow, features, n=8, seed=seed)["variance_remaining"],
    }


def seen_again(
    interpreter: Interpreter,
    held_out: Any,
    samples: int,
    seed: int,
    look: Callable[[Tensor], None] | None = None,
) -> dict[str, Any]:
    """How samples look to the network; see `faithfulness`."""
    seen = faithfulness(interpreter, held_out, n=samples, seed=seed, batch_size=32, look=look)
    return {name: seen[name] for name in ("faithfulness_cosine", "top1_agreement")}


def sampled_factors(
    interpreter: Interpreter,
    world: Shapes,
    reader: FactorReader,
    truth: Mapping[str, Tensor],
    reconstruction: Mapping[str, Tensor],
    samples: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Share of every factor that samples keep (see `kept_by_samples`), and how the same samples look to the network."""
    parts: list[dict[str, Tensor]] = []
    seen = seen_again(
        interpreter, world, samples, seed, lambda drawn: parts.append(reader.read(drawn.flatten(0, 1)))
    )
    read = {name: torch.cat([part[name] for part in parts]).view(-1, samples) for name in truth}
    return kept_by_samples(read, truth, reconstruction), seen


@torch.inference_mode()
def probed_factors(
    representation: Representation, world: Shapes, probe: FactorReader, truth: Mapping[str, Tensor]
) -> dict[str, float]:
    """Share of every factor that the probe of this layer finds in it; see `kept_by_probe`."""
    outputs = [probe(representation(images)) for images in _all_images(world)]
    return kept_by_probe(torch.cat(outputs), truth)


def _all_images(world: Shapes) -> Iterator[Tensor]:
    """64 at a time."""
    return map(world.images, torch.split(torch.arange(len(world)), 64))


def _read_reconstructions(
    interpreter: Interpreter, world: Any, readers: Mapping[str, FactorReader]
) -> dict[str, Tensor]:
    if "reader" not in readers:
        return {}
    pictures = [interpreter.reconstruct(images) for images in _all_images(world)]
    return readers["reader"].read(torch.cat(pictures))


def _cue(
    interpreter: Interpreter,
    world: Shapes,
    readers: Mapping[str, FactorReader],
    reconstruction: Mapping[str, Tensor],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Which cue the network took that saw shape and texture agree: by samples, probes, and conflicting pictures."""
    every = world.factors(range(len(world)))
    truth = {name: every[name] for name in ("shape", "texture")}
    kept, _ = sampled_factors(interpreter, world, readers["reader"], truth, reconstruction, samples, seed)

    def probed(layer: str) -> dict[str, float]:
        representation = Representation(interpreter.representation, layer)
        return probed_factors(representation, world, readers[f"{CUE_NETWORK}/{layer}"], truth)

    conflict = cue_conflict(zoo.load(CUE_NETWORK))
    shape, texture = conflict["shape"], conflict["texture"]
    took = "shape" if shape > 2 * texture else "texture" if texture > 2 * shape else "both"
    return {
        "network": CUE_NETWORK,
        "layers": {
            CUE_LAYER: {"factors": kept, "probe": probed(CUE_LAYER)},
            "logits": {"probe": probed("logits")},
        },
        "conflict": conflict,
        "took": took,
    }


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


def _shown(held_out: Any, n: int, seed: int) -> Tensor:
    """Pictures for the page: of drawn ones, each with another shape and texture; of photos some of each class."""
    if not isinstance(held_out, Shapes):
        return images_at(held_out, spread(n, len(held_out)))
    n = min(n, len(held_out))
    factors = held_out.factors(range(n))
    factors["shape"], factors["texture"] = (torch.arange(n) * 3 + 1) % 8, (torch.arange(n) * 5 + 1) % 8
    factors["foreground_hue"] = (torch.arange(n) * 0.381966) % 1
    factors["background_hue"] = (factors["foreground_hue"] + 0.45) % 1
    return draw(factors)
