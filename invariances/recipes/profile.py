"""A profile: what each layer of a network keeps, in numbers with error bars, one JSON and one page."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from invariances import zoo
from invariances.data.identity import identify
from invariances.data.shapes import Shapes
from invariances.data.splitting import limited, spread
from invariances.evaluation.information import violations
from invariances.evaluation.likelihood import log_probs
from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import finite
from invariances.evaluation.profiling import Beside, LayerProfile, profile_layer
from invariances.evaluation.spread import InFeatures
from invariances.evaluation.tables import Table, load_tables, save_tables
from invariances.features.stream import Features
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import CONFIG, WEIGHTS, Interpreter, autoencoder_of
from invariances.recipes.worlds import layers_worth_seeing
from invariances.report.html import text_table
from invariances.report.profile_page import ProfileStory, write_profile_page
from invariances.representation.representation import Representation
from invariances.system.checks import MOST_SAMPLES, number
from invariances.system.errors import UserError
from invariances.system.files import atomic, check_writable
from invariances.system.machine import accelerator
from invariances.system.weights import read_state_dict
from invariances.training.config import PRESETS, DataConfig, FitConfig, RunConfig
from invariances.training.data import FeatureData, Images
from invariances.training.fit import fit_layers, train_flow
from invariances.zoo.factor_reader import load_readers

PROFILE, PAGE = "profile.json", "index.html"
RUNS, TABLES, PICTURES, UNTOLD = "runs", "tables", "pictures", "unconditional.safetensors"
READERS = "shapes_reader"
DRAWN, KEPT_OUT = 18_000, 1_000
"""Pictures that are drawn where none are given."""


@dataclass(frozen=True)
class ProfileConfig:
    """How closely a profile looks.

    Args:
        preset: Of the flows that are trained: minutes, hours or published.
        n: Samples per picture.
        limit: Pictures, evenly spread over those kept out, whose samples are looked at.
        shown: Pictures on the page.
        second: A second network's layer, NETWORK:LAYER, whose features say how much samples vary to it.
        seed: Of everything.
        device: As of `RunConfig`.
        progress: Bars on stderr.
    """

    preset: str = "minutes"
    n: int = 8
    limit: int = 500
    shown: int = 8
    second: str | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"preset is {self.preset!r}; use {', '.join(PRESETS)}")
        number("n", self.n, 2, MOST_SAMPLES + 1, whole=True)
        number("limit", self.limit, 2, whole=True)
        number("shown", self.shown, 1, whole=True)
        number("seed", self.seed, 0, whole=True)
        if self.second is not None and ":" not in self.second:
            raise UserError(f"second is {self.second!r}; give NETWORK:LAYER")

    def fit(self, folder: Path, resume: bool) -> FitConfig:
        """How the flows learn."""
        flow, learning = PRESETS[self.preset]()
        run = RunConfig(
            str(folder / RUNS / "{layer}"),
            resume=resume,
            seed=self.seed,
            device=self.device,
            samples_every=0,
            progress=self.progress,
        )
        return FitConfig(flow=flow, learning=learning, run=run)


def profile(
    network: str | nn.Module | Representation,
    layers: Sequence[str],
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    output: str | os.PathLike[str] = "profile",
    *,
    held_out: Images | None = None,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """Trains a flow for each layer and one that is told nothing, measures all, and writes a page and a JSON.

    A stopped profile goes on: finished runs are loaded, measured layers are read.

    Args:
        network: As of `fit`.
        layers: From the input to the output.
        autoencoder: As of `fit`.
        images: As of `fit`.
        output: Folder to write to.
        held_out: Pictures of their own to keep out.
        config: How closely to look.

    Raises:
        UserError: Something given cannot work.
    """
    folder = Path(output)
    check_writable(folder)
    if not layers or len(set(layers)) < len(layers):
        raise UserError("give one or more layers, each once, in the order from input to output")
    first = Representation(network, layers[0])
    interpreters = fitted_layers(first, layers, autoencoder, images, held_out, folder, config)
    code = interpreters[layers[0]].autoencoder
    kept = DataConfig() if held_out is None else DataConfig(held_out=None)
    data = FeatureData(images, held_out, kept, progress=config.progress)
    cuts = [each.representation for each in interpreters.values()]
    data.prepare(cuts, code)

    def untold() -> ConditionalFlow:
        path = folder / UNTOLD
        if not path.is_file():
            fit = config.fit(folder, False)
            run = replace(fit.run, output=None)
            save_flow(
                train_flow(cuts[0], code, data, replace(fit, data=kept, run=run), conditional=False), path
            )
        return load_flow(path).to(accelerator(config.device)).eval()

    return measured(interpreters, data.held_out_set, data.held_out_features, untold, folder, config)


def drawn_pictures(seed: int) -> tuple[Shapes, Shapes]:
    """Drawn pictures to train on, and others to keep out."""
    return Shapes(DRAWN, seed=1000 + seed), Shapes(KEPT_OUT, seed=2 + seed)


def profile_named(
    network: str,
    layers: Sequence[str] | None,
    autoencoder: str,
    images: Images,
    output: str | os.PathLike[str],
    *,
    held_out: Images | None = None,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """`profile` of a network by name, by default at some layers along the way, and a table on stdout."""
    chosen = list(layers) if layers else layers_worth_seeing(Representation.layers(network))
    result = profile(network, chosen, autoencoder, images, output, held_out=held_out, config=config)
    names = ("information", "variance_remaining", "faithfulness_cosine", "source_rank", "top1_agreement")
    rows = [[layer, *(found.get(name) for name in names)] for layer, found in result["layers"].items()]
    print(text_table(["layer", *(name.replace("_", " ") for name in names)], rows))
    print(f"page: {Path(output) / PAGE}", file=sys.stderr)
    return result


def fitted_layers(
    network: Representation,
    layers: Sequence[str],
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    held_out: Images | None,
    folder: Path,
    config: ProfileConfig,
) -> dict[str, Interpreter]:
    """An interpreter per layer: loaded where its run is finished, gone on with or trained where it is not."""
    places = {layer: folder / RUNS / layer.replace("#", "_") for layer in layers}
    open_runs = [layer for layer, place in places.items() if not (place / WEIGHTS).exists()]
    data = DataConfig() if held_out is None else DataConfig(held_out=None)
    for resume in (True, False):
        wanted = [layer for layer in open_runs if (places[layer] / CONFIG).exists() == resume]
        if wanted:
            fit = replace(config.fit(folder, resume), data=data)
            fit_layers(network, wanted, autoencoder, images, held_out=held_out, config=fit, numbered=False)
    home = accelerator(config.device)
    code = autoencoder_of(autoencoder)
    return {
        layer: Interpreter.load(place, network=network, autoencoder=code).to(home)
        for layer, place in places.items()
    }


def measured(
    interpreters: Mapping[str, Interpreter],
    pictures: Any,
    features: Callable[[str], Features],
    untold: Callable[[], ConditionalFlow] | None,
    folder: Path,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """Measures interpreters of one network's layers; what was measured before is read.

    Args:
        interpreters: By layer, from input to output, of one autoencoder.
        pictures: Kept out of training.
        features: Gives those of a layer.
        untold: Gives the flow that is told nothing; None leaves information out.
        folder: To write to.
        config: How closely to look.
    """
    started = time.monotonic()
    order = list(interpreters)
    shown: Any = limited(pictures, config.limit)
    digest = identify(shown, config.progress).hashes.tobytes().hex()
    about = {
        "network": interpreters[order[0]].representation.network_name,
        "layers_measured": order,
        "pictures": int(features(order[0]).n),
        "pictures_sampled": len(shown),
        "samples_per_picture": config.n,
        "seed": config.seed,
        "second": config.second,
    }
    key = json.dumps([about, digest, [each.representation.fingerprint() for each in interpreters.values()]])
    about["same"] = digest_of(json.dumps([digest, config.n, config.seed]))
    beside = _beside(shown, config)

    @cache
    def unconditional() -> Tensor:
        assert untold is not None
        return log_probs(untold(), features(order[0]), config.seed)

    places = spread(config.shown, len(shown))
    found: dict[str, LayerProfile] = {}
    for layer in tqdm(order, desc="profile", unit="layer", disable=not config.progress, file=sys.stderr):
        known = _read(folder, layer, key)
        if known is None:
            each = interpreters[layer]
            told = None if untold is None else unconditional
            sampling = Sampling(config.n, seed=config.seed)
            known = profile_layer(each, shown, features(layer), order, told, sampling, beside, places)
            _write(folder, layer, key, known)
        found[layer] = known
    result = {**about, **summary(found, order, config.seed), "seconds": round(time.monotonic() - started, 1)}
    with atomic(folder / PROFILE) as draft:
        draft.write_text(json.dumps(finite(result), indent=2) + "\n", encoding="utf-8")
    story = ProfileStory(
        finite(result),
        {layer: each.pictures for layer, each in found.items()},
        {layer: each.maps for layer, each in found.items()},
    )
    write_profile_page(story, folder / PAGE)
    return result


def summary(found: Mapping[str, LayerProfile], order: Sequence[str], seed: int) -> dict[str, Any]:
    """The numbers of all layers, the matrix of faithfulness, and where information seems to grow."""
    layers: dict[str, dict[str, Any]] = {}
    matrix: dict[str, dict[str, Any]] = {}
    for layer in order:
        factors: dict[str, Any] = {}
        layers[layer], matrix[layer] = {}, {}
        for name, table in found[layer].tables.items():
            if name.startswith("at "):
                other = name.split(" ")[1]
                matrix[layer] |= table.told(other, seed)
            elif name.startswith("factor "):
                factors |= table.told(name.removeprefix("factor "), seed)
            else:
                layers[layer] |= table.told(name, seed)
        if factors:
            layers[layer]["factors"] = factors
    bits = {
        layer: found[layer].tables["information"] for layer in order if "information" in found[layer].tables
    }
    grown = violations(bits, order, seed) if len(bits) == len(order) else []
    return {"layers": layers, "matrix": matrix, "violations": grown}


def _beside(shown: Any, config: ProfileConfig) -> Beside:
    distances: dict[str, Any] = {}
    if config.second is not None:
        network, _, layer = config.second.rpartition(":")
        second = Representation(network, layer).to(accelerator(config.device))
        distances[f"variance_in_{second.network_name}_{layer}"] = InFeatures(second)
    source, places = shown, None
    while hasattr(source, "dataset"):
        places = list(source.indices) if places is None else [source.indices[k] for k in places]
        source = source.dataset
    if isinstance(source, Shapes):
        reader = load_readers(zoo.fetch(READERS))["reader"].to(accelerator(config.device))
        return Beside(distances, reader, source.factors(range(len(source)) if places is None else places))
    return Beside(distances)


def digest_of(text: str) -> str:
    """A short hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(folder: Path, layer: str, key: str, found: LayerProfile) -> None:
    from safetensors.torch import save_file

    path = _place(folder, PICTURES, layer)
    with atomic(path) as draft:
        own, mean = found.maps
        tensors = {"pictures": found.pictures, "maps": own.float(), "map": mean.float()}
        save_file({name: each.contiguous() for name, each in tensors.items()}, draft)
    marked = {**found.tables, f"key {digest_of(key)}": Table(torch.zeros(1, 1))}
    save_tables(marked, _place(folder, TABLES, layer))


def _read(folder: Path, layer: str, key: str) -> LayerProfile | None:
    path = _place(folder, TABLES, layer)
    if not path.is_file():
        return None
    try:
        tables = load_tables(path)
        state, _ = read_state_dict(_place(folder, PICTURES, layer))
    except UserError:
        return None
    if f"key {digest_of(key)}" not in tables:
        return None
    return _profile(tables, state)


def read_layer(folder: Path, layer: str) -> LayerProfile:
    """What was found of one layer of a finished profile.

    Raises:
        UserError: It is missing or damaged.
    """
    tables = load_tables(_place(folder, TABLES, layer))
    state, _ = read_state_dict(_place(folder, PICTURES, layer))
    try:
        return _profile(tables, state)
    except KeyError:
        raise UserError(f"the pictures of {str(folder)!r} are damaged; profile again") from None


def _profile(tables: Mapping[str, Table], state: Mapping[str, Tensor]) -> LayerProfile:
    own = {name: table for name, table in tables.items() if not name.startswith("key ")}
    return LayerProfile(own, state["pictures"], (state["maps"], state["map"]))


def _place(folder: Path, kind: str, layer: str) -> Path:
    return folder / kind / f"{layer.replace('#', '_').replace('/', '_')}.safetensors"


def save_flow(flow: ConditionalFlow, path: Path) -> None:
    """Writes a flow alone."""
    from safetensors.torch import save_file

    state = {name: each.detach().cpu().contiguous() for name, each in flow.state_dict().items()}
    with atomic(path) as draft:
        save_file(state, draft, metadata={"flow": json.dumps(flow.spec())})


def load_flow(path: Path) -> ConditionalFlow:
    """The flow that `save_flow` wrote.

    Raises:
        UserError: The file is damaged.
    """
    state, metadata = read_state_dict(path)
    try:
        return ConditionalFlow.restored(json.loads(metadata["flow"]), state)
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{str(path)!r} is damaged; delete it and repeat the command") from None
