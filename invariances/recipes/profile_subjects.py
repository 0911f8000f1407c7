"""What can be profiled by name: a network, whose flows are shipped or trained, or the runs that were trained of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from invariances.data.identity import Identity, without
from invariances.data.shapes import Shapes
from invariances.flow.config import FlowConfig
from invariances.interpreter import Interpreter
from invariances.recipes.evaluate_run import pictures_of
from invariances.recipes.profile import PAGE, ProfileConfig, Subject, begun, measured, profile
from invariances.recipes.profile_store import PROFILE, claimed
from invariances.recipes.shapes_flows import AUTOENCODER, PICTURES, STEPS, TRAIN_SEED
from invariances.recipes.worlds import layers_worth_seeing
from invariances.report.html import text_table
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import leaving_nothing
from invariances.system.machine import accelerator
from invariances.training.config import DataConfig, FitConfig, LearningConfig, RunConfig
from invariances.training.data import FeatureData
from invariances.training.run_folder import TRAINED_ON, read_config
from invariances.zoo.interpreters import Offer, offers
from invariances.zoo.needs import needing
from invariances.zoo.runs import WEIGHTS

DRAWN, DRAWN_SEED = "shapes", 1_000_000
KEPT_OUT = 1_000
"""Pictures that are drawn where none are given; no shipped model has seen any of these seeds."""
TOLD = ("information", "variance_remaining", "faithfulness_cosine", "source_rank", "top1_agreement")


def profile_named(
    network: str,
    layers: Sequence[str] | None = None,
    autoencoder: str | None = None,
    images: str | None = None,
    output: str | Path = "profile",
    *,
    weights: str | None = None,
    held_out: str | None = None,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """A profile of what the words of a command name, and a table on stdout.

    Args:
        network: Its name, its file, or the folder of one or several runs.
        layers: From the input to the output; by default those of the runs, those whose flows are shipped, or some
            along the way.
        autoencoder: As of `fit`; by default the runs' own, or that of drawn pictures.
        images: Folder of pictures; by default those that the runs kept out, or drawn ones.
        output: Folder to write to.
        weights: The network's weights, where they are not its own.
        held_out: Folder of pictures to keep out.
        config: How closely to look.
    """
    if runs_in(network):
        if weights or held_out or autoencoder:
            raise UserError(
                f"{network!r} is the folder of a run, whose network and autoencoder are known; leave out --weights, "
                "--autoencoder and --held_out"
            )
        result = profile_runs(network, output, layers, images, config)
    else:
        drawn = images in (None, DRAWN)
        sets: Any = drawn_pictures(config.seed) if drawn else (images, held_out)
        found = [] if weights or config.preset != "minutes" else offered(network, layers, autoencoder, drawn)
        if found:
            result = profile_shipped(found, None if drawn else sets, output, config)
        else:
            if network in [each.name for each in offers()]:
                raise UserError(
                    f"{network!r} is an interpreter, which cannot be profiled so: give --images, its own layers, and "
                    "none of --weights and --preset"
                )
            code = autoencoder or AUTOENCODER
            with needing([None if weights else network, code], [images, held_out]):
                chosen = (
                    list(layers) if layers else layers_worth_seeing(Representation.layers(network, weights))
                )
                cut: Any = network if weights is None else Representation(network, chosen[0], weights)
                result = profile(cut, chosen, code, sets[0], output, held_out=sets[1], config=config)
    rows = [[layer, *(found.get(name) for name in TOLD)] for layer, found in result["layers"].items()]
    print(text_table(["layer", *(name.replace("_", " ") for name in TOLD)], rows))
    for layer, numbers in result["layers"].items():
        if "information_warning" in numbers:
            print(f"information at {layer} is {numbers['information_warning']}", file=sys.stderr)
    print(f"page: {Path(output) / PAGE}", file=sys.stderr)
    return result


def drawn_pictures(seed: int) -> tuple[Shapes, Shapes]:
    """Drawn pictures to train on, and others to keep out."""
    return Shapes(PICTURES, seed=2 * DRAWN_SEED + seed), kept_out(seed)


def kept_out(seed: int) -> Shapes:
    """Drawn pictures to keep out."""
    return Shapes(KEPT_OUT, seed=DRAWN_SEED + seed)


def offered(network: str, layers: Sequence[str] | None, autoencoder: str | None, drawn: bool) -> list[Offer]:
    """The flows that are shipped, where there are some for all these layers and this autoencoder; or none.

    Args:
        network: Its name, or that of its interpreter.
        layers: Of it; by default all that are offered.
        autoencoder: Its name; by default whichever.
        drawn: Whether the pictures are drawn ones, so that the autoencoder must be of these.
    """
    code = AUTOENCODER if drawn else autoencoder
    if drawn and autoencoder not in (None, AUTOENCODER):
        return []
    named = [each for each in offers() if network in (each.name, each.network)]
    found = [each for each in named if each.here and each.encodes and code in (None, each.autoencoder)]
    names = [each.layer for each in found]
    wanted = list(layers or names)
    if len(set(names)) < len(names) or not set(wanted) <= set(names):
        return []
    return [each for each in found if each.layer in wanted]


@leaving_nothing()
def profile_shipped(
    flows: Sequence[Offer], pictures: tuple[str, str | None] | None, output: str | Path, config: ProfileConfig
) -> dict[str, Any]:
    """A profile with shipped flows: at most the one that is told nothing is trained.

    Args:
        flows: Of one network and autoencoder.
        pictures: Folder, and another to keep out; None for drawn ones.
        output: Folder to write to.
        config: How closely to look.
    """
    with claimed(output, PROFILE) as folder:
        return measured(_of_shipped(flows, pictures, folder, config), folder, config)


def _of_shipped(
    flows: Sequence[Offer], pictures: tuple[str, str | None] | None, folder: Path, config: ProfileConfig
) -> Subject:
    home = accelerator(config.device)
    first = Interpreter.load(flows[0].name, layer=flows[0].layer).to(home)
    shared = {"network": first.representation, "autoencoder": first.autoencoder}
    interpreters = {
        each.layer: Interpreter.load(each.name, layer=each.layer, **shared).to(home) for each in flows
    }
    kept = DataConfig(held_out=None)
    sets: tuple[Any, Any] = pictures or (
        Shapes(PICTURES, seed=TRAIN_SEED),
        kept_out(config.seed),
    )
    settings = DataConfig() if sets[1] is None else kept
    data = FeatureData(sets[0], sets[1], settings, progress=config.progress)
    known = begun(first.representation, first.autoencoder, data, config, folder)
    data.prepare([each.representation for each in interpreters.values()], first.autoencoder, training=False)
    if pictures is not None:
        reason = "the pictures that the shipped flows learned from are not at hand, to train one that is told nothing"
        return Subject(interpreters, data, known, reason=reason, kept_out=None)
    fit = FitConfig(
        flow=FlowConfig.minutes(),
        data=kept,
        learning=replace(LearningConfig.minutes(), steps=STEPS),
        run=RunConfig(None, device=config.device, samples_every=0, progress=config.progress),
    )
    return Subject(interpreters, data, known, fit)


def runs_in(folder: str | Path) -> list[Path]:
    """The folder itself, where it is a finished run's, or those in it that are."""
    place = Path(folder)
    if not place.is_dir():
        return []
    if (place / WEIGHTS).is_file():
        return [place]
    return sorted(path.parent for path in place.glob(f"*/{WEIGHTS}"))


@leaving_nothing()
def profile_runs(
    folder: str | Path,
    output: str | Path,
    layers: Sequence[str] | None = None,
    images: str | None = None,
    config: ProfileConfig = ProfileConfig(),
) -> dict[str, Any]:
    """A profile of the runs of one network, on pictures that all of them kept out.

    Args:
        folder: Of a run, or of several.
        output: Folder to write to.
        layers: Some of theirs; by default all.
        images: Other pictures: one half for readers of attributes to learn from, the other to measure on, without
            those that a run was trained on.
        config: How closely to look.

    Raises:
        UserError: The runs are of several networks or autoencoders, or their pictures cannot be read.
    """
    with claimed(output, PROFILE) as target:
        return measured(_of_runs(folder, target, layers, images, config), target, config)


def _of_runs(
    folder: str | Path,
    target: Path,
    layers: Sequence[str] | None,
    images: str | None,
    config: ProfileConfig,
) -> Subject:
    found, places = _loaded(folder, layers, config)
    first = next(iter(found.values()))
    settings = read_config(places[0])
    if images is None:
        data = pictures_of(places[0], settings, first.image_size, None, config.progress, training=True)
    else:
        data = FeatureData(images, None, DataConfig(held_out=0.5), progress=config.progress)
        data.read(first.image_size)
    for place in places:
        kept, _ = without(data.held_out_set, Identity.load(place / TRAINED_ON), config.progress)
        if kept is None:
            raise UserError(f"of the pictures none is left that no run in {str(folder)!r} was trained on")
        data.held_out_set = kept
    known = begun(first.representation, first.autoencoder, data, config, target)
    data.prepare([each.representation for each in found.values()], first.autoencoder, training=False)
    if images is not None:
        reason = "the pictures that were given are not those of the run, on which a flow told nothing could be trained"
        return Subject(found, data, known, reason=reason)
    fit = replace(settings, run=replace(settings.run, progress=config.progress, device=config.device))
    return Subject(found, data, known, fit)


def _loaded(
    folder: str | Path, layers: Sequence[str] | None, config: ProfileConfig
) -> tuple[dict[str, Interpreter], list[Path]]:
    """Interpreters of runs in the network's order, which share network and autoencoder, and their folders."""
    home = accelerator(config.device)
    runs = [(Interpreter.load(place), place) for place in runs_in(folder)]
    loaded = [(each.at(layer), place) for each, place in runs for layer in each.layers]
    known = [each.representation.layer for each, _ in loaded]
    if layers and not set(layers) <= set(known):
        raise UserError(
            f"the runs in {str(folder)!r} are of {', '.join(known)}, not all of {', '.join(layers)}"
        )
    loaded = [(each, place) for each, place in loaded if each.representation.layer in (layers or known)]
    parts = {
        (each.representation.at("input").fingerprint(), each.autoencoder.fingerprint())  # type: ignore[operator]
        for each, _ in loaded
    }
    if len(parts) > 1 or len(set(known)) < len(known):
        raise UserError(
            f"the runs in {str(folder)!r} are of several networks or autoencoders, or several of one layer; give the "
            "folder of one"
        )
    first = loaded[0][0]
    order = list(Representation.layers(first.representation))
    loaded.sort(key=lambda each: order.index(each[0].representation.layer.partition("#")[0]))
    found = {
        each.representation.layer: Interpreter(
            first.representation.at(each.representation.layer), first.autoencoder, each.flow
        ).to(home)
        for each, _ in loaded
    }
    return {layer: each.eval() for layer, each in found.items()}, list(
        dict.fromkeys(place for _, place in loaded)
    )
