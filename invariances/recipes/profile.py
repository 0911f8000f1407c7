"""A profile: what each layer of a network keeps, in numbers with error bars, one JSON and one page."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from invariances.data.attributes import digest_of_attributes
from invariances.data.identity import identify
from invariances.data.splitting import limited, spread
from invariances.evaluation.bootstrap import missing
from invariances.evaluation.information import violations
from invariances.evaluation.likelihood import log_probs
from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import finite, write_numbers
from invariances.evaluation.profiling import LayerProfile, profile_layer
from invariances.interpreter import Interpreter, autoencoder_of
from invariances.recipes.profile_attributes import Known, known_of, readers_of
from invariances.recipes.profile_beside import NO_LPIPS, beside_of
from invariances.recipes.profile_store import (
    PROFILE,
    begin,
    claimed,
    digest_of,
    known_layer,
    write_layer,
)
from invariances.report.profile_page import ProfileStory, write_profile_page
from invariances.representation.representation import Representation
from invariances.system.checks import MOST_SAMPLES, number
from invariances.system.errors import UserError
from invariances.system.files import leaving_nothing
from invariances.system.machine import accelerator
from invariances.system.weights import weights_hash
from invariances.training.config import PRESETS, DataConfig, FitConfig, RunConfig
from invariances.training.data import FeatureData, Images
from invariances.training.fit import fit_layers
from invariances.training.untold import untold_flow
from invariances.zoo.runs import CONFIG, WEIGHTS

PAGE = "index.html"
NOT_READ = "it cannot be read of the autoencoder's code, so samples cannot tell"
TOO_LITTLE = (
    "below 0, where no information can lie: the flows have learned too little to tell how much there is"
)
RUNS = "runs"


@dataclass(frozen=True)
class ProfileConfig:
    """How closely a profile looks.

    Args:
        preset: Of the flows that are trained: minutes, hours or published.
        n: Samples per picture.
        limit: Pictures, evenly spread over those kept out, whose samples are looked at.
        shown: Pictures on the page.
        second: A second network's layer, NETWORK:LAYER, whose features say how much samples vary to it.
        lpips: File of AlexNet's LPIPS, which says how much samples vary to the eye.
        seed: Of everything.
        device: As of `RunConfig`.
        progress: Bars on stderr.
    """

    preset: str = "minutes"
    n: int = 8
    limit: int = 500
    shown: int = 8
    second: str | None = None
    lpips: str | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS or self.preset == "maps":
            raise UserError(
                f"preset is {self.preset!r}; use minutes, hours or published (a flow over maps is trained by "
                "`invariances fit --preset maps`, and its run's folder profiled)"
            )
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


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        interpreters: By layer, from input to output, of one network and one autoencoder.
        data: Prepared, of pictures kept out of the flows' training.
        known: As of `known_of`.
        fit: How the flows were trained, and so one that is told nothing; None leaves information out.
        reason: Why information is left out.
        kept_out: None where nobody knows whether the pictures were, as of a flow that ships.
    """

    interpreters: Mapping[str, Interpreter]
    data: FeatureData
    known: Known
    fit: FitConfig | None = None
    reason: str = ""
    kept_out: bool | None = True


@leaving_nothing()
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
    if not layers or len(set(layers)) < len(layers):
        raise UserError("give one or more layers, each once, in the order from input to output")
    with claimed(output, PROFILE) as folder:
        first = Representation(network, layers[0])
        code = autoencoder_of(autoencoder)
        kept = DataConfig() if held_out is None else DataConfig(held_out=None)
        data = FeatureData(images, held_out, kept, progress=config.progress)
        known = begun(first, code, data, config, folder)
        interpreters = fitted_layers(first, layers, autoencoder, images, held_out, folder, config)
        code = interpreters[layers[0]].autoencoder
        data.prepare([each.representation for each in interpreters.values()], code)
        fit = replace(config.fit(folder, False), data=kept)
        return measured(Subject(interpreters, data, known, fit), folder, config)


def begun(
    network: Representation, code: nn.Module, data: FeatureData, config: ProfileConfig, folder: Path
) -> Known:
    """Reads which pictures there are and what is known of them, and refuses to go on with a profile of something else.

    Raises:
        UserError: The folder holds one, or what is known of the pictures cannot be read.
    """
    if data.held_out_set is None:
        data.read(int(code.image_size))  # type: ignore[arg-type]
    pictures = "".join(_digest(each, config) for each in (*data.train_sets, data.held_out_set))
    about = {
        "network": network.at("input").fingerprint(),
        "autoencoder": code.fingerprint(),  # type: ignore[operator]
        "preset": config.preset,
        "seed": str(config.seed),
        "pictures": digest_of(pictures),
    }
    begin(folder, about)
    return known_of(data)


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


def measured(subject: Subject, folder: Path, config: ProfileConfig = ProfileConfig()) -> dict[str, Any]:
    """Measures interpreters of one network's layers; what was measured before is read.

    Args:
        subject: What is measured.
        folder: To write to.
        config: How closely to look.
    """
    started = time.monotonic()
    order = list(subject.interpreters)
    shown: Any = limited(subject.data.held_out_set, config.limit)
    digest = _digest(shown, config)
    about = {
        "network": subject.interpreters[order[0]].representation.network_name,
        "layers_measured": order,
        "pictures": int(subject.data.held_out_features(order[0]).n),
        "pictures_sampled": len(shown),
        "kept_out_of_training": subject.kept_out,
        "samples_per_picture": config.n,
        "seed": config.seed,
        "second": config.second,
    }
    key = json.dumps([about, digest, config.lpips, config.shown])
    about["same"] = digest_of(json.dumps([digest, config.n, config.seed]))
    found = _found(subject, shown, key, folder, config)
    result = {**about, **summary(found, order, config.seed)}
    if subject.fit is None:
        for numbers in result["layers"].values():
            numbers |= missing("information", subject.reason)
    if config.lpips is None:
        for numbers in result["layers"].values():
            numbers |= missing("variance_in_lpips", NO_LPIPS)
    result["seconds"] = round(time.monotonic() - started, 1)
    write_numbers(folder / PROFILE, result)
    story = ProfileStory(
        finite(result),
        {layer: each.pictures for layer, each in found.items()},
        {layer: each.maps for layer, each in found.items()},
    )
    write_profile_page(story, folder / PAGE)
    return result


def _found(
    subject: Subject, shown: Any, key: str, folder: Path, config: ProfileConfig
) -> dict[str, LayerProfile]:
    """What is found of each layer."""
    order = list(subject.interpreters)
    features = subject.data.held_out_features
    beside = beside_of(shown, config.second, config.lpips, accelerator(config.device))
    told_of = [digest_of_attributes(each) for each in subject.known]
    keys, known = {}, {}
    for layer, each in subject.interpreters.items():
        keys[layer] = json.dumps(
            [key, told_of, each.representation.fingerprint(), weights_hash("", each.flow.state_dict())]
        )
        known[layer] = known_layer(folder, layer, keys[layer])
    told, readers = None, None
    if None in known.values():
        parts = subject.interpreters, subject.data, subject.known, config.seed
        readers = readers_of(*parts, of_code=beside.reader is None)
        if subject.fit is not None:
            first = subject.interpreters[order[0]]
            untold = untold_flow(first.representation, first.autoencoder, subject.data, subject.fit)
            told = log_probs(untold.to(first.device), features(order[0]), config.seed)
    beside = replace(beside, code_reader=None if readers is None else readers.code)
    places, found = spread(config.shown, len(shown)), {}
    for layer in tqdm(order, desc="profile", unit="layer", disable=not config.progress, file=sys.stderr):
        of_layer = known[layer]
        if of_layer is None:
            each, sampling = subject.interpreters[layer], Sampling(config.n, seed=config.seed)
            of_layer = profile_layer(each, shown, features(layer), order, told, sampling, beside, places)
            if readers is not None:
                of_layer = readers.added(of_layer, each.representation)
            write_layer(folder, layer, keys[layer], of_layer)
        found[layer] = of_layer
    return found


def _digest(pictures: Any, config: ProfileConfig) -> str:
    """What pictures these are, by content."""
    return identify(pictures, config.progress).hashes.tobytes().hex()


def summary(found: Mapping[str, LayerProfile], order: Sequence[str], seed: int) -> dict[str, Any]:
    """The numbers of all layers, the matrix of faithfulness, and where information seems to grow."""
    layers: dict[str, dict[str, Any]] = {}
    matrix: dict[str, dict[str, Any]] = {}
    readable: dict[str, Any] = {}
    for layer in order:
        groups: dict[str, dict[str, Any]] = {"factors": {}, "probe": {}}
        layers[layer], matrix[layer] = {}, {}
        for name, table in found[layer].tables.items():
            kind, _, rest = name.partition(" ")
            if kind == "at":
                matrix[layer] |= table.told(rest.split(" ")[0], seed)
            elif kind == "readable":
                readable |= table.told(rest, seed)
                if f"factor {rest}" not in found[layer].tables:
                    groups["factors"] |= missing(rest, NOT_READ)
            elif kind in ("factor", "probe"):
                groups["factors" if kind == "factor" else kind] |= table.told(rest, seed)
            else:
                layers[layer] |= table.told(name, seed)
        layers[layer] |= {name: each for name, each in groups.items() if each}
        if (layers[layer].get("information") or 0.0) < 0:
            layers[layer]["information_warning"] = TOO_LITTLE
    bits = {
        layer: found[layer].tables["information"] for layer in order if "information" in found[layer].tables
    }
    grown = violations(bits, order, seed) if len(bits) == len(order) else []
    return {"layers": layers, "matrix": matrix, "violations": grown, "readable": readable}
