"""`fit` and `fit_layers`: from a network, a layer, an autoencoder and pictures to an interpreter, in one call."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import nn
from torch.utils.data import ConcatDataset

from invariances.data.identity import Identity, identify
from invariances.features.stream import Features, FeatureSource
from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter, autoencoder_of
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import leaving_nothing
from invariances.training.averaging import Averaging, BestWeights
from invariances.training.callbacks import COLUMNS, Measure, Progress
from invariances.training.config import (
    CacheConfig,
    DataConfig,
    FitConfig,
    LearningConfig,
    RunConfig,
    debugged,
)
from invariances.training.data import Embedded, FeatureData, Images, paths_of, worth_remembering
from invariances.training.layered_fit import check_layered, fit_layered
from invariances.training.metrics_file import MetricsFile
from invariances.training.new_flow import device_of, new_flow, resume_from, same_learning, started_from
from invariances.training.pictures import PICTURES, SampleGrids
from invariances.training.processes import all_processes, first_process, watch_parent
from invariances.training.run_folder import METRICS, SAMPLES, alone, begin, choose_folder
from invariances.training.stages import FlowStage, Regression, Stage
from invariances.training.start import start_embedder
from invariances.training.stopping import LastCheckpoint, stopped_in
from invariances.training.stopping import run as run_trainer
from invariances.training.trainer import finish, loggers_of, make_trainer, quiet, settled
from invariances.training.wandb_logger import check_wandb
from invariances.zoo.needs import needing
from invariances.zoo.runs import LAST, flow_of

EMBEDDER = "checkpoints/embedder.ckpt"
Network = str | nn.Module | Representation
Autoencoder = str | os.PathLike[str] | nn.Module


def fit(
    network: Network,
    layer: str,
    autoencoder: Autoencoder,
    images: Images,
    *,
    held_out: Images | float | None = None,
    flow: FlowConfig = FlowConfig(),
    data: DataConfig = DataConfig(),
    learning: LearningConfig = LearningConfig(),
    cache: CacheConfig = CacheConfig(),
    run: RunConfig = RunConfig(),
    loggers: Sequence[Logger] = (),
) -> Interpreter:
    """Trains a flow for one layer; what is left out is as published.

    Args:
        network: Name of a torchvision, timm, published or shipped network, a module, or a `Representation`
            (for other weights, sizes or tokens), which is then cut at `layer`.
        layer: Name of the layer, as `Representation.layers` lists them.
        autoencoder: A safetensors file, the name of a published or shipped one, or a module.
        images: A folder of pictures, several, or a data set.
        held_out: Pictures of their own to keep out, or how many, in place of `data.held_out`.
        flow: The flow's architecture.
        data: How the pictures are cut and split.
        learning: How the flow learns.
        cache: Where features are kept and how much room they may take.
        run: Where the run is kept, and on what it runs.
        loggers: Lightning's loggers besides metrics.csv and TensorBoard.

    Returns:
        The interpreter, in eval mode.

    Raises:
        UserError: Something given cannot work; see the message.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    given = FitConfig(flow=flow, data=data, learning=learning, cache=cache, run=run)
    return fit_layers(
        network, [layer], autoencoder, images, held_out=held_out, config=given, loggers=loggers
    )[layer]


@leaving_nothing()
def fit_layers(
    network: Network,
    layers: Sequence[str],
    autoencoder: Autoencoder,
    images: Images,
    *,
    held_out: Images | float | None = None,
    config: FitConfig = FitConfig(),
    loggers: Sequence[Logger] = (),
    numbered: bool = True,
) -> dict[str, Interpreter]:
    """Trains one flow per layer, after one pass of all pictures through network and autoencoder.

    Args:
        network: As of `fit`.
        layers: Names of the layers.
        autoencoder: As of `fit`.
        images: As of `fit`.
        held_out: As of `fit`.
        config: All that `fit` takes one by one.
        loggers: As of `fit`.
        numbered: Give each run a new folder, with a number where the name is taken, instead of refusing.

    Returns:
        An interpreter per layer, in eval mode.

    Raises:
        UserError: As of `fit`.
        KeyboardInterrupt: As of `fit`.
    """
    if isinstance(held_out, (int, float)):
        config, held_out = replace(config, data=replace(config.data, held_out=held_out)), None
    if config.run.debug_run:
        config = debugged(config)
    if config.run.wandb is not None:
        check_wandb()
    watch_parent()
    with all_processes(config.run):
        if not first_process():
            config = replace(config, run=replace(config.run, progress=False))
        config = replace(config, run=settled(config.run))
        return _fit_layers(network, layers, autoencoder, images, held_out, config, loggers, numbered)


def _fit_layers(
    network: Network,
    layers: Sequence[str],
    autoencoder: Autoencoder,
    images: Images,
    held_out: Images | None,
    config: FitConfig,
    loggers: Sequence[Logger],
    numbered: bool,
) -> dict[str, Interpreter]:
    run = config.run
    home = device_of(run)
    together = config.flow.transform == "maps"
    first = Representation(network, layers[0])
    representations = {each: Representation(first, each).to(home) for each in layers}
    code = autoencoder_of(autoencoder).to(home)
    if together:
        check_layered(config, code)
    config = explained(config, first, autoencoder, images, held_out)
    data = FeatureData(images, held_out, config.data, config.cache, run.precision, run.progress)
    begun = {}
    if not together:  # before pictures are looked at for hours
        begun = {
            layer: started_from(replace(config, layer=layer), each, code)
            for layer, each in representations.items()
        }
    if run.debug_run:
        data.most = config.learning.batch_size * run.devices * run.num_nodes
    named = {"_".join(layers): first} if together else representations
    folders = {layer: choose_folder(run, each.network_name, layer, numbered) for layer, each in named.items()}
    data.prepare(list(representations.values()), code)
    sets: list[Any] = [ConcatDataset(data.train_sets), data.held_out_set]
    pictures = [identify(each, run.progress) for each in sets]
    if together:
        whole = Path(folders["_".join(layers)] or tempfile.mkdtemp(prefix="invariances-"))
        with alone(whole):
            config = replace(config, layers=list(layers))
            return fit_layered(representations, code, data, config, whole, pictures, loggers)
    found = {}
    for layer, each in representations.items():
        one, folder = begun[layer], folders[layer]
        with alone(folder if first_process() else None):
            found[layer] = Fitting(each, code, data, one, folder, pictures, loggers).interpreter()
    return found


class Fitting:
    """One flow's training: its stages, one after the other, each from where a checkpoint left it.

    Attributes:
        about: What the flow depends on; of one that is told nothing, neither network nor layer.
        last: Its newest checkpoint; None keeps none.
    """

    def __init__(
        self,
        representation: Representation,
        code: nn.Module,
        data: FeatureData,
        config: FitConfig,
        folder: Path | None,
        pictures: Sequence[Identity],
        loggers: Sequence[Logger] = (),
        conditional: bool = True,
    ) -> None:
        self.conditional = conditional
        self.frozen, self.data, self.config, self.folder = (representation, code), data, config, folder
        self.pictures, self.loggers = pictures, loggers
        self.last = None if folder is None else folder / LAST
        told = {"layer": representation.layer, "network": representation.fingerprint(), "init": config.init}
        self.about = {
            **(told if conditional else {}),
            "autoencoder": code.fingerprint(),  # type: ignore[operator]
            "flow": asdict(config.flow),
            "learning": same_learning(config),
            "seed": config.run.seed,
            "pictures": [each.digest() for each in pictures],
        }

    def interpreter(self) -> Interpreter:
        """Trains what is left to train, and keeps the result."""
        if self.folder is not None and first_process():
            begin(self.folder, self.config, self.pictures, self.about, (LAST, EMBEDDER))
        try:
            flow = self.trained()
        except KeyboardInterrupt as interrupt:
            if self.folder is None:
                raise
            raise interrupt from stopped_in(interrupt, self.folder / LAST)
        interpreter = Interpreter(*self.frozen, flow).eval()
        interpreter.precision = self.config.run.precision
        if self.folder is not None and first_process():
            interpreter.save(self.folder)
            print(f"done: {self.folder}; next: invariances evaluate {self.folder}", file=sys.stderr)
        return interpreter

    def trained(self) -> ConditionalFlow:
        """The flow that remains after both stages."""
        representation, code = self.frozen
        config, layer = self.config, representation.layer
        last = self.last
        resumed = config.run.resume and last is not None and last.exists()
        begun = config.init is not None and self.conditional
        if begun and not resumed:
            assert config.init is not None
            flow = flow_of(config.init, layer).requires_grad_(True)
        else:
            flow = new_flow(config.flow, representation if self.conditional else None, code, config.run.seed)
        flow.to(device_of(config.run))
        features, kept_out = self.data.features(layer), self.data.held_out_features(layer)
        steps = config.learning.steps
        taught = int(config.learning.regression * steps) if flow.embedder.taught_first and not begun else 0
        if resumed and last is not None:
            resume_from(last, flow, {"stage": FlowStage.name, **self.about})
        elif self.conditional and not begun:
            start_embedder(flow, features, config.run.seed, config.run.progress)
        if taught and not resumed:
            embedder: Any = flow.embedder
            stage = Regression(embedder, features, kept_out, config.learning, taught, config.run.seed)
            self._run(stage, [], None if self.folder is None else self.folder / EMBEDDER)
        return self._flow_stage(flow, features, kept_out, steps - taught, taught)

    def _flow_stage(
        self,
        flow: ConditionalFlow,
        features: Features,
        kept_out: Features,
        steps: int,
        before: int,
    ) -> ConditionalFlow:
        config = self.config
        learning, run = config.learning, config.run
        sources: list[FeatureSource] = [features, kept_out]
        seen = steps * learning.batch_size * run.devices * run.num_nodes
        embedded = worth_remembering(features, flow, seen)
        if embedded:
            flow.to(device_of(run))
            sources = [Embedded(each, flow, run.progress) for each in (features, kept_out)]
        stage = FlowStage(flow, *sources, learning, steps, run.seed, before, embedded=embedded)
        averaging = Averaging(flow, learning.ema) if learning.ema else None
        best = BestWeights(flow, learning.keep == "best")
        callbacks: list[Any] = [*([averaging] if averaging else []), best]
        if self.folder is not None:
            callbacks += self._lookers(self.folder)
        self._run(stage, callbacks, self.last)
        kept: Any = flow if averaging is None else averaging.average
        if best.best is not None and best.step:
            kept = best.best
        return kept.requires_grad_(True).eval()  # type: ignore[no-any-return]

    def _lookers(self, folder: Path) -> list[Any]:
        """What looks at pictures while the flow learns."""
        run, data, layer = self.config.run, self.data, self.frozen[0].layer

        def interpreter(flow: ConditionalFlow) -> Interpreter:
            return Interpreter(*self.frozen, flow)

        shown = {}
        if first_process():
            shown = {
                name: data.shown(PICTURES, layer, training)
                for name, training in (("held_out", False), ("training", True))
            }
        found: list[Any] = [SampleGrids(folder / SAMPLES, run.samples_every, interpreter, shown, run.seed)]
        if run.evaluate_every and hasattr(self.frozen[1], "encode"):
            from invariances.training.evaluating import EvaluationAfterEpochs  # slow to import

            every = run.evaluate_every
            found.append(EvaluationAfterEpochs(folder, every, interpreter, data, run.seed, run.progress))
        return found

    def _run(self, stage: Stage, callbacks: Sequence[Any], checkpoint: Path | None) -> None:
        """Trains one stage, from its checkpoint where the run is resumed and there is one."""
        run, folder = self.config.run, self.folder
        stage.about = self.about
        metrics = None if folder is None else MetricsFile(folder / METRICS, COLUMNS)
        told = f"for {self.frozen[0].layer}" if self.conditional else "that is told nothing"
        bars = [Progress(told)] if run.progress else []
        keep = run.keep_checkpoints if isinstance(stage, FlowStage) and checkpoint is not None else 0
        best = next((each for each in callbacks if isinstance(each, BestWeights)), None)
        saving = LastCheckpoint(checkpoint, run.checkpoint_every, keep, best)
        own = [*callbacks, Measure(run.checkpoint_every if keep else 0), *bars, saving]
        averaged = [each for each in own if isinstance(each, Averaging)]
        own = [*averaged, *(each for each in own if not isinstance(each, Averaging))]
        go_on = run.resume and checkpoint is not None and checkpoint.exists()
        with quiet():
            loggers = loggers_of(folder, metrics, self.config, self.loggers)
            trainer = make_trainer(run, stage.steps, own, loggers)
            try:
                run_trainer(trainer, stage, checkpoint=checkpoint if go_on else None)
            finally:
                finish([each for each in loggers if each not in self.loggers])


def explained(
    config: FitConfig, cut: Representation, autoencoder: object, images: Images, held_out: Images | None
) -> FitConfig:
    """The configuration with all names that are known, so that config.yaml explains the run."""
    spec = cut.spec()
    size: Any = spec["preprocessing"]["size"]
    named = getattr(autoencoder, "published_name", None)
    pictures = replace(config.data, images=paths_of(images))
    if held_out is not None:
        pictures = replace(pictures, held_out=paths_of(held_out))
    return replace(
        config,
        network=spec["network"],
        weights=spec["weights"],
        size=size if isinstance(size, int) else list(size),
        token=spec["token"],
        autoencoder=os.fspath(autoencoder) if isinstance(autoencoder, (str, os.PathLike)) else named,
        data=pictures,
    )


def fit_config(config: FitConfig, numbered: bool = False) -> Interpreter:
    """Trains what a configuration says, as the command line does.

    Args:
        config: Complete.
        numbered: As of `fit_layers`.

    Raises:
        UserError: Something is missing or cannot work.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    for name, value in {
        "network": config.network,
        "layer": config.layer or config.layers or None,
        "autoencoder": config.autoencoder,
        "images": config.data.images,
    }.items():
        if value is None:
            raise UserError(f"--{name} is missing; see `invariances fit --help` for an example")
    network, code, images = config.network, config.autoencoder, config.data.images
    layers = config.layers or [config.layer or ""]
    assert network and code and images  # noqa: PT018
    asked = [images, config.data.held_out, config.data.also]
    with needing([None if config.weights else network, code, config.init], asked):
        cut = Representation(network, layers[0], config.weights, size=config.size, token=config.token)
        return fit_layers(cut, layers, code, images, config=config, numbered=numbered)[layers[0]]
