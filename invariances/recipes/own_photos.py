"""Quickstart on one's own photos: one flow for all layers, which starts from the shipped one of animals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invariances import zoo
from invariances.data.datasets import tell
from invariances.flow.config import FlowConfig
from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.recipes.budget import affordable_map_steps, precision, seconds_to_look
from invariances.recipes.quickstart_measures import CACHE, SHOWN, SHOWN_SAMPLES
from invariances.recipes.worlds import World
from invariances.representation.representation import Representation
from invariances.system.files import new_folder
from invariances.training.config import FitConfig, LearningConfig, RunConfig
from invariances.training.fit import fit_layers
from invariances.training.new_flow import latent_shape

if TYPE_CHECKING:
    from invariances.recipes.quickstart import Effort

HELD_OUT, SAMPLES = 24, 2
"""At most so many photos kept out are measured on, by so many samples: a sample takes a fifth of a second."""


def fit_photos(
    world: World,
    layers: Sequence[str],
    runs: Path,
    effort: Effort,
    deadline: float | None,
    seed: int,
    progress: bool,
) -> tuple[dict[tuple[str, str], Path], int]:
    """Trains the flow for these layers; the run's folder for each (network, layer), and its steps.

    Args:
        world: photos, network.
        layers: of the network.
        runs: folder of the runs.
        effort: how long.
        deadline: when all numbers shall be there, by `time.monotonic`; None takes the steps of `effort`.
        seed: of everything.
        progress: bars on stderr.
    """
    run = new_folder(runs / "photos")
    learning = replace(LearningConfig.maps(), steps=effort.learning.steps)
    code = zoo.load_autoencoder(world.autoencoder)
    cuts = Representation.many(world.network, layers)
    if deadline is not None:
        shapes = {each.layer: each.shape for each in cuts}
        flow = LayeredFlow(FlowConfig.maps(), latent_shape(code), shapes)
        trial = Interpreter(next(iter(cuts)), code, flow)
        looks = len(layers) * (HELD_OUT + SHOWN * SHOWN_SAMPLES // SAMPLES)
        seconds = deadline - time.monotonic() - seconds_to_look(trial, world.held_out, SAMPLES, looks)
        learning = replace(learning, steps=affordable_map_steps(flow, learning.batch_size, seconds))
        tell(f"quickstart: {learning.steps} steps of one flow for {len(layers)} layers")
    settings = RunConfig(str(run), seed=seed, precision=precision(), progress=progress)
    config = FitConfig(flow=FlowConfig.maps(), learning=learning, cache=CACHE, run=settings)
    fit_layers(
        next(iter(cuts)), layers, world.autoencoder, world.training, held_out=world.held_out, config=config
    )
    return {(world.network, layer): run for layer in layers}, learning.steps
