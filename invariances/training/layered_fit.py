"""One flow over maps for several layers, from cached features: `fit` with `flow.transform` "maps"."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.identity import Identity
from invariances.experiments.samples import sample_rows
from invariances.features.stream import Features, FeatureStream
from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import save_grid
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.training.config import FitConfig, LearningConfig
from invariances.training.data import FeatureData
from invariances.training.layered import CHECKPOINT, Batch, LayeredRun, train_layered
from invariances.training.new_flow import latent_shape
from invariances.training.pictures import PICTURES, SAMPLES
from invariances.training.run_folder import SAMPLES as GRIDS
from invariances.training.run_folder import begin
from invariances.zoo.interpreters import offers, read_flow
from invariances.zoo.registry import path as path_of

_FIRST = 2048
"""Pictures that set the normalisations."""


class LayeredFeatures:
    """Batches of cached features: every layer its own share of a step's pictures, order and noise by the step.

    Args:
        features: Layer -> features, of the same pictures in the same order.
        seed: Of order and noise.
    """

    def __init__(self, features: Mapping[str, Features], seed: int) -> None:
        self.features, self.seed = features, seed
        self._streams: dict[int, FeatureStream] = {}

    def batch(self, step: int, per_layer: int) -> Batch:
        """(latents, layer -> (places, representations)) of a step."""
        count = per_layer * len(self.features)
        if count not in self._streams:  # each remembers the order of its epoch
            self._streams[count] = FeatureStream(next(iter(self.features.values())), count, self.seed)
        indices = self._streams[count].indices(step)
        places = torch.arange(len(indices)).tensor_split(len(self.features))
        told, means, logvars = {}, [], []
        for (layer, source), own in zip(self.features.items(), places, strict=True):
            mean, logvar, z = source.batch(indices[own])
            told[layer] = own, z
            means.append(mean)
            logvars.append(logvar)
        noise = seeded("layered latents", self.seed, step)
        return DiagonalGaussian(torch.cat(means), torch.cat(logvars)).sample(noise), told


def fit_layered(
    representations: Mapping[str, Representation],
    code: nn.Module,
    data: FeatureData,
    config: FitConfig,
    folder: Path,
    pictures: Sequence[Identity],
) -> dict[str, Interpreter]:
    """Trains the flow, from the shipped one where the autoencoder is that one's, and keeps it with its numbers.

    Args:
        representations: Of the layers, frozen.
        code: The autoencoder, frozen.
        data: Prepared.
        config: Complete.
        folder: Of the run.
        pictures: Learnt from, and kept out.

    Returns:
        An interpreter per layer.

    Raises:
        UserError: The autoencoder's latents are no maps, or a setting is none of this loop's.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    only = replace(LearningConfig(), steps=config.learning.steps, batch_size=config.learning.batch_size)
    if config.learning != only:
        raise UserError(
            "flows over maps learn by a schedule of their own; give --preset maps, and no more of `learning` than "
            "steps and batch_size"
        )
    if config.init is not None:
        raise UserError("flows over maps start from the shipped one by themselves; leave out --init")
    per_layer = max(1, config.learning.batch_size // len(representations))
    training = LayeredFeatures({each: data.features(each) for each in representations}, config.run.seed)
    held_out = LayeredFeatures({each: data.held_out_features(each) for each in representations}, 0)
    flow = _started(representations, code, config)
    flow.train()
    with torch.no_grad():
        latents, told = training.batch(0, max(per_layer, _FIRST // len(representations)))
        flow.loss(latents, told, seeded("first", config.run.seed))
    about = _about(representations, code, config, pictures)
    begin(folder, config, pictures, about, (f"checkpoints/{CHECKPOINT}",))
    run = LayeredRun(
        folder / "checkpoints",
        config.learning.steps,
        per_layer,
        metrics_every=config.run.log_every,
        seed=config.run.seed,
        about=about,
        progress=config.run.progress,
    )
    first = next(iter(representations.values()))
    interpreter = Interpreter(first, code, train_layered(flow, training, held_out, run)).eval()
    interpreter.save(folder)
    found = {layer: interpreter.at(layer) for layer in representations}
    _draw(found, data.held_out_images(PICTURES), folder / GRIDS)
    print(f"done: {folder}; next: invariances evaluate {folder}", file=sys.stderr)
    return found


def _about(
    representations: Mapping[str, Representation],
    code: nn.Module,
    config: FitConfig,
    pictures: Sequence[Identity],
) -> dict[str, Any]:
    """What a checkpoint must be of, to be gone on with."""
    return {
        "layers": {name: each.fingerprint() for name, each in representations.items()},
        "autoencoder": code.fingerprint(),  # type: ignore[operator]
        "flow": asdict(config.flow),
        "batch_size": config.learning.batch_size,
        "seed": config.run.seed,
        "pictures": [each.digest() for each in pictures],
    }


def _started(
    representations: Mapping[str, Representation], code: nn.Module, config: FitConfig
) -> LayeredFlow:
    """A new flow for these layers; its transform is the shipped one's where autoencoder and architecture are."""
    shapes = {layer: each.shape for layer, each in representations.items()}
    chances = [layer for layer, each in representations.items() if each.probabilities]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        flow = LayeredFlow(config.flow, latent_shape(code), shapes, chances)
    for offer in {
        each.name: each for each in offers() if each.one_flow and path_of(each.name).is_file()
    }.values():
        shipped, notes = read_flow(path_of(offer.name), offer.layer)
        if (
            isinstance(shipped, LayeredFlow)
            and notes["autoencoder_fingerprint"] == code.fingerprint()  # type: ignore[operator]
            and shipped.config == config.flow
        ):
            flow.transform.load_state_dict(shipped.transform.state_dict())
            break
    return flow


def _draw(interpreters: Mapping[str, Interpreter], images: Tensor, folder: Path) -> None:
    """A grid of pictures, reconstructions and samples for each layer."""
    for layer, each in interpreters.items():
        rows, names = sample_rows(each, images, SAMPLES, seeded("samples", layer))
        save_grid(rows, folder / f"{layer}.png", column_labels=names)
