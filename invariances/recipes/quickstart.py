"""The question answered in minutes: what do the layers of a small network keep of a picture, what do they ignore?

`quickstart()` trains a flow for some layers of a network that ships with the package (or of one for the user's own
photos), measures what samples keep, and writes one page with its numbers beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset
from tqdm import tqdm

from invariances import zoo
from invariances.data.datasets import images_at, tell
from invariances.data.images import spread
from invariances.data.shapes import Shapes, draw
from invariances.evaluation.numbers import write_numbers
from invariances.experiments.texture_bias import conflict_pictures
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.recipes.budget import (
    Work,
    affordable_steps,
    precision,
    seconds_to_look,
)
from invariances.recipes.own_photos import HELD_OUT, SAMPLES, fit_photos
from invariances.recipes.processes import in_processes
from invariances.recipes.quickstart_measures import (
    CACHE,
    CUE_LAYER,
    CUE_NETWORK,
    SHOWN,
    SHOWN_SAMPLES,
    Measures,
)
from invariances.recipes.worlds import World, drawn_world, layers_worth_seeing, own_world
from invariances.report.quickstart_page import CueStory, PhotoStory, Story, write_opening, write_page
from invariances.representation.representation import Representation
from invariances.system.checks import number
from invariances.system.errors import UserError
from invariances.system.files import check_writable, leaving_nothing, new_folder
from invariances.system.machine import accelerator, cores
from invariances.system.seeds import seeded
from invariances.training.config import DataConfig, FitConfig, LearningConfig, RunConfig
from invariances.training.data import FeatureData
from invariances.training.fit import fit_layers
from invariances.training.new_flow import latent_shape
from invariances.zoo.interpreters import examples

NETWORK = "shapes_shape"
LAYERS = ("stage2", "stage3", "pool", "softmax")
PAGE, SUMMARY, RUNS = "index.html", "summary.json", "runs"
PHOTOS, PHOTO_SAMPLES = "photos64", 2


@dataclass(frozen=True)
class Effort:
    """How long quickstart trains and how closely it looks.

    Attributes:
        minutes: to take, all in all; steps follow from the speed that is measured. None takes `learning.steps`.
        pictures: drawn for training; of own photos about as many random crops, where there are fewer. None takes
            `MOST_PICTURES`, of drawn ones fewer where the time would go into passing them.
        flow: of each layer.
        learning: of each flow.
        held_out: pictures that numbers are measured on; None takes `MOST_HELD_OUT`, or fewer in the same way.
        samples: per picture that is measured.
        processes: flows that train at once; at most as many as there are cores.
        classifier_steps: own photos only.
    """

    minutes: float | None = 4.0
    pictures: int | None = None
    flow: FlowConfig = field(default_factory=FlowConfig.minutes)
    learning: LearningConfig = field(default_factory=LearningConfig.minutes)
    held_out: int | None = None
    samples: int = 4
    processes: int = 2
    classifier_steps: int = 600

    def __post_init__(self) -> None:
        if self.minutes is not None:
            number("minutes", self.minutes, 0.2, 100_001)
        for name, least in {"pictures": 1, "held_out": 2, "samples": 1}.items():
            if getattr(self, name) is not None:
                number(name, getattr(self, name), least, whole=True)


@leaving_nothing()
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
        images: folder of one's own photos in place of drawn pictures; class folders in it give the classifier.
        network: whose layers; by default the shipped shape classifier, or the one trained on the photos.
        layers: names, from input to output; by default some along the way.
        effort: how long to train, and how much to measure.
        seed: of everything.
        progress: bars on stderr.

    Returns:
        What `summary.json` holds; its numbers are defined in docs/numbers.md.

    Raises:
        UserError: folder, network or layers cannot be used; a flat folder of photos comes without `network`.
    """
    started = time.monotonic()
    folder = Path(output)
    check_writable(folder)
    usual = images is None and network is None and layers is None
    chosen = chosen_layers(layers, network or NETWORK, usual)
    photos = photo_story(folder / PAGE, seed) if usual else None
    deadline = None if effort.minutes is None else started + 60 * effort.minutes
    if images is None:
        cuts = [(network or NETWORK, layer) for layer in chosen] + [(CUE_NETWORK, CUE_LAYER)] * usual
        world = drawn_world(cuts, effort, seed)
        folders, steps = fit_all(world, cuts, folder / RUNS, effort, deadline, seed, progress)
        measures = Measures(world.held_out, effort.samples, seed)
    else:
        world = own_world(images, folder, network, effort, seed, progress)
        folders, steps = fit_photos(world, chosen, folder / RUNS, effort, deadline, seed, progress)
        measures = Measures(Subset(world.held_out, spread(HELD_OUT, len(world.held_out))), SAMPLES, seed)
    own = [folders[world.network, layer] for layer in chosen]
    looked = {layer: interpreter_of(run, layer) for layer, run in zip(chosen, own)}
    summary: dict[str, Any] = {
        "network": looked[chosen[0]].representation.network_name,
        "autoencoder": world.autoencoder,
        "images": str(images or "Shapes"),
        "steps": steps,
        "layers": measured(looked, measures, own, progress),
    }
    story = told(summary, looked, _shown(world.held_out, SHOWN, seed), photos, seed)
    if usual:
        cue = interpreter_of(folders[CUE_NETWORK, CUE_LAYER], CUE_LAYER)
        summary["cue"] = measures.cue(cue)
        story.cue = cue_story(cue, looked[CUE_LAYER], seed)
    summary["seconds"] = round(time.monotonic() - started, 1)
    write(story, folder)
    return summary


def measured(
    looked: Mapping[str, Interpreter], measures: Measures, folders: Sequence[Path], progress: bool
) -> dict[str, dict[str, Any]]:
    """All numbers of each layer, and its run's folder."""
    bar = tqdm(looked.items(), desc="looking at samples", unit="layer", disable=not progress)
    return {layer: {**measures.numbers(each), "run": str(run)} for (layer, each), run in zip(bar, folders)}


def write(story: Story, folder: Path) -> None:
    """The page, and its numbers beside it."""
    write_numbers(folder / SUMMARY, story.summary)
    write_page(story, folder / PAGE)


def chosen_layers(layers: Sequence[str] | None, network: str, usual: bool) -> list[str]:
    """The layers to look at; the classifier of own photos has those of the shipped one.

    Raises:
        UserError: One is unknown, or named twice.
    """
    shapes = Representation.layers(network)
    for layer in layers or ():
        if layer not in shapes:
            raise UserError(
                f"there is no layer {layer!r} in {network}; `invariances layers {network}` lists them"
            )
    if layers is not None and (not layers or len(set(layers)) < len(layers)):
        raise UserError(f"layers {', '.join(layers)} must be one or more different names")
    return list(layers or (LAYERS if usual else layers_worth_seeing(shapes)))


def fit_all(
    world: World,
    cuts: Sequence[tuple[str, str]],
    runs: Path,
    effort: Effort,
    deadline: float | None,
    seed: int,
    progress: bool,
) -> tuple[dict[tuple[str, str], Path], int]:
    """Trains a flow for each (network, layer), some at once; their runs' folders and their steps.

    Small flows use one core well, not several.

    Args:
        world: pictures, autoencoder.
        cuts: networks and layers.
        runs: folder of the runs.
        effort: how long.
        deadline: when all numbers shall be there, by `time.monotonic`; None takes the steps of `effort`.
        seed: of everything.
        progress: bars on stderr.
    """
    code = zoo.load_autoencoder(world.autoencoder)
    taps = cached(world, cuts, code.to(accelerator("auto")), progress)
    home = accelerator("auto")
    processes = min(effort.processes, cores(), len(cuts)) if home.type == "cpu" else 1
    learning = effort.learning
    if deadline is not None:
        learning = _in_time(world, taps, code, effort, deadline, processes)
        tell(
            f"quickstart: {learning.steps} steps for each of {len(cuts)} flows, as many as this machine does in time"
        )
    every = learning.steps
    jobs, folders = [], {}
    for cut, tap in taps.items():
        folders[cut] = new_folder(runs / f"{tap.network_name}_{tap.layer}")
        run = RunConfig(
            str(folders[cut]),
            seed=seed,
            precision=precision(),
            progress=progress,
            checkpoint_every=every,
            samples_every=every,
        )
        config = FitConfig(flow=effort.flow, learning=learning, cache=CACHE, run=run)
        job = {"network": cut[0], "layers": [cut[1]], "autoencoder": world.autoencoder, "config": config}
        jobs.append({**job, "images": world.training, "held_out": world.held_out})
    if processes > 1:
        in_processes(_fitted, jobs, processes)
    else:
        for each in jobs:
            _fitted(**each)
    return folders, learning.steps


def _in_time(
    world: World,
    taps: Mapping[tuple[str, str], Representation],
    code: nn.Module,
    effort: Effort,
    deadline: float,
    processes: int,
) -> LearningConfig:
    """The effort's learning in as many steps as leave time for all numbers before the deadline."""
    cut, shape = next(iter(taps.values())), latent_shape(code)
    trial = Interpreter(cut, code, ConditionalFlow(effort.flow, shape, tuple(cut.shape)).eval())
    looks = len(taps) * len(world.held_out)
    looking = seconds_to_look(trial.to(accelerator("auto")), world.held_out, effort.samples, looks)
    works = [Work(effort.flow, shape, tuple(tap.shape)) for tap in taps.values()]
    seconds = deadline - time.monotonic() - looking
    return replace(effort.learning, steps=affordable_steps(works, effort.learning, seconds, processes))


def interpreter_of(folder: Path, layer: str) -> Interpreter:
    """A run's, on the accelerator where there is one."""
    interpreter = Interpreter.load(folder, layer=layer).to(accelerator("auto"))
    interpreter.precision = precision()
    return interpreter


def cached(
    world: World, cuts: Sequence[tuple[str, str]], code: nn.Module, progress: bool
) -> dict[tuple[str, str], Representation]:
    """All layers, their features on disk after one pass per network; the largest first, to train longest first."""
    taps: dict[tuple[str, str], Representation] = {}
    for network in dict.fromkeys(network for network, _ in cuts):
        own = [layer for name, layer in cuts if name == network]
        first = Representation(network, own[0])
        found = {(network, layer): first.at(layer).to(accelerator("auto")) for layer in own}
        data = FeatureData(world.training, world.held_out, DataConfig(), CACHE, precision(), progress)
        data.prepare(list(found.values()), code)
        taps |= found
    return dict(sorted(taps.items(), key=lambda each: -torch.Size(each[1].shape).numel()))


def _fitted(**job: Any) -> dict[str, Tensor]:
    fit_layers(**job)
    return {}


def photo_story(page: Path, seed: int) -> PhotoStory | None:
    """What the shipped flow of real photos shows, on the page before anything is trained.

    None where its weights are not installed.
    """
    shown = examples(PHOTOS)
    if shown is None:
        return None
    pictures, names = shown
    interpreter = Interpreter.load(PHOTOS).to(accelerator("auto"))
    interpreter.precision = precision()
    samples = {
        layer: interpreter.sample(
            pictures, PHOTO_SAMPLES, generator=seeded("photos", seed), layer=layer
        ).cpu()
        for layer in interpreter.layers
    }
    story = PhotoStory(interpreter.representation.network_name, pictures, names, samples)
    write_opening(story, page)
    tell(f"quickstart: {page} shows what {story.network} sees in pictures of animals; drawn shapes are next")
    return story


def told(
    summary: dict[str, Any],
    looked: Mapping[str, Interpreter],
    pictures: Tensor,
    photos: PhotoStory | None,
    seed: int,
) -> Story:
    """What the page tells: the same pictures through each layer."""
    first = next(iter(looked.values()))
    samples = {
        layer: each.sample(pictures, SHOWN_SAMPLES, generator=seeded("page", seed)).cpu()
        for layer, each in looked.items()
    }
    return Story(summary, pictures, first.reconstruct(pictures).cpu(), samples, photos=photos)


def cue_story(cue: Interpreter, other: Interpreter, seed: int) -> CueStory:
    """Pictures whose cues disagree, and a sample of each at the same layer of both networks."""
    pictures = conflict_pictures(8)
    drawn = {
        f"{each.representation.network_name}, {CUE_LAYER}": each.sample(
            pictures, 1, generator=seeded("cue", seed)
        )[:, 0].cpu()
        for each in (cue, other)
    }
    return CueStory(pictures, cue.reconstruct(pictures).cpu(), drawn)


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
