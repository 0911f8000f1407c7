"""One flow over maps for several layers, from cached features: `fit` with `flow.transform` "maps"."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.data.identity import Identity
from invariances.experiments.samples import sample_rows
from invariances.features.stream import Features, FeatureStream
from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.report.grids import grid
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.training.config import FitConfig, LearningConfig
from invariances.training.data import FeatureData
from invariances.training.layered import CHECKPOINT, Batch, LayeredRun, columns, train_layered
from invariances.training.metrics_file import MetricsFile
from invariances.training.new_flow import device_of, latent_shape
from invariances.training.pictures import PICTURES, SAMPLES, keep_picture
from invariances.training.run_folder import METRICS, begin
from invariances.training.run_folder import SAMPLES as GRIDS
from invariances.training.trainer import finish, loggers_of, quiet
from invariances.zoo.interpreters import offers, read_flow
from invariances.zoo.registry import path as path_of


class LayeredFeatures:
    """Batches of cached features: every layer its own share of a step's pictures, order and noise by the step.

    Args:
        features: Layer -> features, of the same pictures in the same order.
        seed: Of order and noise.
    """

    def __init__(self, features: Mapping[str, Features], seed: int) -> None:
        self.features, self.seed = features, seed
        self._streams: dict[int, FeatureStream] = {}

    @property
    def count(self) -> int:
        """Pictures of an epoch."""
        return next(iter(self.features.values())).n

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
    loggers: Sequence[Logger] = (),
) -> dict[str, Interpreter]:
    """Trains the flow, from the shipped one where the autoencoder is that one's, and keeps it with its numbers.

    Args:
        representations: Of the layers, frozen.
        code: The autoencoder, frozen.
        data: Prepared.
        config: Complete.
        folder: Of the run.
        pictures: Learnt from, and kept out.
        loggers: Lightning's, besides metrics.csv, TensorBoard and Weights & Biases.

    Returns:
        An interpreter per layer.

    Raises:
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    per_layer = max(1, config.learning.batch_size // len(representations))
    training = LayeredFeatures({each: data.features(each) for each in representations}, config.run.seed)
    held_out = LayeredFeatures({each: data.held_out_features(each) for each in representations}, 0)
    flow = _started(representations, code, config).to(device_of(config.run))
    about = _about(representations, code, config, pictures)
    checkpoint = begin(folder, config, pictures, about, (CHECKPOINT,))
    with quiet():
        used = loggers_of(folder, MetricsFile(folder / METRICS, columns(representations)), config, loggers)
    shown = data.held_out_images(PICTURES)

    def interpreter(flow: LayeredFlow) -> Interpreter:
        return Interpreter(next(iter(representations.values())), code, flow).eval()

    run = LayeredRun(
        folder,
        config.learning.steps,
        per_layer,
        checkpoint_every=config.run.checkpoint_every,
        metrics_every=config.run.log_every,
        loggers=used,
        look=lambda step, flow: _draw(interpreter(flow), shown, folder / GRIDS, step, used),
        look_every=config.run.samples_every,
        seed=config.run.seed,
        about=about,
        progress=config.run.progress,
    )
    try:
        found = interpreter(train_layered(flow, training, held_out, run, checkpoint))
    finally:
        finish([each for each in used if each not in loggers])
    found.save(folder)
    print(f"done: {folder}; next: invariances evaluate {folder}", file=sys.stderr)
    return {layer: found.at(layer) for layer in representations}


def check_layered(config: FitConfig, code: nn.Module) -> None:
    """Refuses what this loop does not have, before any picture is read.

    Raises:
        UserError: The autoencoder's latents are no maps, or a setting is none of this loop's.
    """
    only = replace(LearningConfig(), steps=config.learning.steps, batch_size=config.learning.batch_size)
    if config.learning != only:
        raise UserError(
            "flows over maps learn by a schedule of their own; give --preset maps, and no more of `learning` than "
            "steps and batch_size"
        )
    if config.init is not None:
        raise UserError("flows over maps start from the shipped one by themselves; leave out --init")
    run = config.run
    if (run.devices, run.num_nodes) != (1, 1):
        raise UserError("flows over maps train in one process; leave out run.devices and run.num_nodes")
    if run.keep_checkpoints or run.evaluate_every:
        raise UserError(
            "flows over maps keep their last checkpoint alone, and are evaluated by hand; leave out "
            "run.keep_checkpoints and run.evaluate_every"
        )
    if len(latent_shape(code)) != 3:
        raise UserError(
            f"flows over maps need latents that are maps (C, H, W), not {latent_shape(code)}; give another "
            "autoencoder, `photos64_ae` say, or another preset"
        )


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


def _draw(
    interpreter: Interpreter, images: Tensor, folder: Path, step: int, loggers: Sequence[Logger]
) -> None:
    """A grid of pictures, reconstructions and samples for each layer."""
    for layer in interpreter.layers:
        rows, names = sample_rows(interpreter.at(layer), images, SAMPLES, seeded("samples", layer))
        keep_picture(grid(rows, column_labels=names), folder, layer, step, loggers)
