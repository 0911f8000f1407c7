"""Training the flow: minimise E[½‖v‖² − log |det ∂v/∂z̄|] over cached pairs of posterior and representation."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from .errors import UserError
from .features import Batch
from .flow import ConditionalFlow
from .interpreter import Interpreter, autoencoder_of
from .muon import MuonAdam
from .representation import Representation
from .run import CONFIG, LAST, Stopped, check_writable, write_config
from .training_data import CacheOptions, FeatureData, Images
from .training_loop import parts, quiet
from .whitening import start_embedder

Schedule = Literal["constant", "cosine"]
Optimizer = Literal["adam", "muon"]
PUBLISHED_RATE = 4.5e-6
"""Published learning rate per picture of a step."""


class FlowTraining(LightningModule):
    """The flow as it learns. Nothing else is a submodule: network and autoencoder never train, move or get saved.

    Args:
        representation: The frozen network under study, cut at a layer.
        autoencoder: The frozen autoencoder.
        flow: What learns.
        learning_rate: Of Adam with betas (0.5, 0.9); None for the published 4.5e-6 × pictures per step.
        schedule: "constant" as published, or "cosine": down to zero at the last step.
        warmup: Steps over which the learning rate rises from zero.
        ema: Decay of an exponential moving average of the weights, which then is what is evaluated and kept;
            0 keeps the weights themselves.
        optimizer: "adam" as published, or "muon": the embedder's weight matrices by `MuonAdam`, which learns what a
            layer shows faintly in a fraction of the steps.
        weight_decay: Share of each weight, times the learning rate, that is taken off at every step.
        whiten: Start the embedder at whitened principal components and a linear guess of the latent; see
            `start_embedder`.
        seed: Of the order of the data and of the latents' noise.
    """

    def __init__(
        self,
        representation: Representation,
        autoencoder: nn.Module,
        flow: ConditionalFlow,
        *,
        learning_rate: float | None = None,
        schedule: Schedule = "constant",
        warmup: int = 0,
        ema: float = 0.0,
        optimizer: Optimizer = "adam",
        weight_decay: float = 0.0,
        whiten: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= ema < 1:
            raise UserError(f"ema is {ema}, but a moving average's decay lies in [0, 1); try 0.999")
        if learning_rate is not None and not learning_rate > 0:
            raise UserError(f"learning_rate is {learning_rate}; it must be above 0")
        if optimizer not in get_args(Optimizer):
            raise UserError(f"optimizer {optimizer!r} is unknown; use 'adam' or 'muon'")
        if not weight_decay >= 0:
            raise UserError(f"weight_decay is {weight_decay}; it must be 0 or above")
        self.flow = flow
        self.average = deepcopy(flow).requires_grad_(False).eval() if ema else None
        self.frozen = (representation, autoencoder.eval().requires_grad_(False))
        self.learning_rate, self.schedule, self.warmup = learning_rate, schedule, warmup
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.ema, self.whiten, self.seed = ema, whiten, seed
        self.loss_sum, self.loss_count = torch.zeros(()), 0

    @property
    def layer(self) -> str:
        """The layer at which the network is cut."""
        return self.frozen[0].layer

    @property
    def kept(self) -> ConditionalFlow:
        """The flow to evaluate and keep: the average where there is one."""
        return self.flow if self.average is None else self.average

    def interpreter(self) -> Interpreter:
        """Network, autoencoder and the flow as it stands."""
        return Interpreter(*self.frozen, self.kept)

    def nats_per_dim(self, loss: float) -> float:
        """Negative log-likelihood in nats per dimension, loss / D + ½ log 2π."""
        return loss / self.flow.latent_dim + 0.5 * math.log(2 * math.pi)

    def setup(self, stage: str) -> None:
        """Starts the embedder of a new run from the features."""
        if self.whiten and self.trainer.ckpt_path is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            start_embedder(self.flow, data.features(self.layer), self.seed, data.progress)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """mean(½‖v‖²) − mean(log |det|), nats up to a constant."""
        invariance, log_det = self.flow(*batch)
        loss: Tensor = 0.5 * invariance.square().sum(dim=1).mean() - log_det.mean()
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach()
        self.loss_count += 1
        if loss.device.type == "cpu":
            self.check_finite()
        return loss

    def check_finite(self) -> None:
        """Stops a run whose loss has become NaN or infinite since the last call of `take_loss`.

        Raises:
            UserError: It has. The last checkpoint is from before.
        """
        if not torch.isfinite(self.loss_sum):
            raise UserError(
                f"the loss is no longer finite at step {self.global_step + 1}, so training stops and the last "
                "good checkpoint stays; lower the learning rate, or clip with --trainer.gradient_clip_val 1"
            )

    def take_loss(self) -> float:
        """The mean loss since the last call, over all ranks."""
        total = torch.stack([self.loss_sum, torch.full_like(self.loss_sum, float(self.loss_count))])
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return float(total[0] / total[1])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Adam's step, then the moving average's: decay min(ema, step / (step + 10))."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self.average is None:
            return
        if step == 0:
            self.average.load_state_dict(self.flow.state_dict())
        else:
            decay = min(self.ema, step / (step + 10))
            average: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(average, [each.detach() for each in self.flow.parameters()], 1 - decay)

    def train(self, mode: bool = True) -> FlowTraining:
        """Train mode for the flow that learns; the average stays in eval mode."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def configure_optimizers(self) -> Any:
        """Fused Adam (or Muon with it), betas (0.5, 0.9), and a learning rate that is a function of the step."""
        rate = self.learning_rate
        if rate is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            rate = PUBLISHED_RATE * data.batch_size * self.trainer.world_size
        parameters = self.flow.parameters()
        adam: dict[str, Any] = {
            "lr": rate,
            "betas": (0.5, 0.9),
            "weight_decay": self.weight_decay,
            "fused": True,
        }
        optimizer: torch.optim.Optimizer
        if self.optimizer == "muon":
            matrices = [each for each in self.flow.embedder.parameters() if each.dim() > 1]
            optimizer = MuonAdam(parameters, matrices, **adam)
        else:
            optimizer = torch.optim.AdamW(parameters, **adam)
        factor = rate_factor(self.schedule, self.warmup, self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run to go on with it."""
        representation, autoencoder = self.frozen
        return {
            "flow": self.flow.config,
            "layer": representation.layer,
            "network": representation.fingerprint(),
            "autoencoder": autoencoder.fingerprint(),  # type: ignore[operator]
            "average": self.average is not None,
            "optimizer": self.optimizer,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what this run is, and the loss since the last report."""
        self.check_finite()
        checkpoint["invariances"] = self.identity()
        checkpoint["loss"] = (float(self.loss_sum), self.loss_count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another flow, layer, network or autoencoder.

        Raises:
            UserError: Naming what differs.
        """
        theirs, ours = checkpoint["invariances"], self.identity()
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise UserError(
                    f"the checkpoint is of another {key} ({theirs.get(key)}) than this run's ({value}); "
                    "use the config.yaml beside it, or start a new run"
                )
        total, self.loss_count = checkpoint["loss"]
        self.loss_sum = torch.tensor(total)


def rate_factor(schedule: Schedule, warmup: int, steps: float) -> Callable[[int], float]:
    """The learning rate's factor at each step: min(1, (step + 1) / warmup), times ½(1 + cos) for "cosine"."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if schedule == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return factor


def new_flow(
    representation: Representation, autoencoder: nn.Module, seed: int, **sizes: Any
) -> ConditionalFlow:
    """A flow for this layer and this autoencoder, its weights a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalFlow(
            autoencoder.latent_dim,  # type: ignore[arg-type]
            representation.shape,
            probabilities=representation.probabilities,
            **sizes,
        )


def fit(
    network: str | nn.Module | Representation,
    layer: str,
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    **options: Any,
) -> Interpreter:
    """Trains a flow for one layer; see `fit_layers` for the options.

    Args:
        network: Name of a torchvision, timm, published or shipped network, a module, or a `Representation`,
            which is then cut anew.
        layer: Name of the layer, as `Representation.layers` lists them.
        autoencoder: A safetensors file, the name of a published or shipped one, or a module.
        images: A folder of pictures, several, or a data set.
        options: As of `fit_layers`.
    """
    return fit_layers(network, [layer], autoencoder, images, **options)[layer]


def fit_layers(
    network: str | nn.Module | Representation,
    layers: Sequence[str],
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    *,
    weights: str | os.PathLike[str] | None = None,
    held_out: float | Images = 0.1,
    output: str | os.PathLike[str] | None = "runs/{network}_{layer}",
    resume: bool = False,
    steps: int | Mapping[str, int] = 20_000,
    batch_size: int = 16,
    learning_rate: float | None = None,
    schedule: Schedule = "constant",
    warmup: int = 0,
    ema: float = 0.0,
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
    whiten: bool = True,
    blocks: int = 20,
    width: int = 1024,
    depth: int = 2,
    crop: Literal["center", "random"] = "center",
    views: int = 1,
    skip_broken: bool = False,
    cache: CacheOptions | None = None,
    checkpoint_every: int = 1000,
    samples_every: int = 1000,
    log_every: int = 50,
    accelerator: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Interpreter]:
    """Trains one flow per layer, after one pass of all pictures through network and autoencoder.

    Args:
        network: As of `fit`.
        layers: Names of the layers.
        autoencoder: As of `fit`.
        images: As of `fit`.
        weights: Weights file for a named network.
        held_out: Share of the pictures kept for evaluation, or pictures of their own.
        output: Folder of each run, with `{network}` and `{layer}` filled in and a number added where that
            folder is taken; None writes nothing.
        resume: Go on with the last checkpoint in `output`.
        steps: Training steps per layer, or of each layer by its name.
        batch_size: Pictures per step.
        learning_rate: As of `FlowTraining`, like `schedule`, `warmup`, `ema`, `optimizer`,
            `weight_decay`, `whiten`.
        schedule: "constant" or "cosine".
        warmup: Steps of linear rise.
        ema: Decay of the weights' moving average; 0 for none.
        optimizer: "adam" or "muon".
        weight_decay: Decoupled, as of AdamW.
        whiten: Start the embedder from the features.
        blocks: As of `ConditionalFlow`, like `width` and `depth`.
        width: Of hidden layers.
        depth: Hidden layers after the first.
        crop: "center", or "random" with `views` crops per picture.
        views: Crops cached per picture.
        skip_broken: Leave broken pictures out instead of stopping.
        cache: Where features are kept and how much room they may take.
        checkpoint_every: Steps between checkpoints.
        samples_every: Steps between sample grids.
        log_every: Steps between rows of metrics.
        accelerator: "cpu", "gpu" or "auto".
        seed: Of weights, order and noise: the same seed gives the same run, to the bit, on one machine.
        progress: Progress bars on stderr.

    Returns:
        An interpreter per layer, in eval mode.

    Raises:
        UserError: Something given cannot work; see the message.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving.
    """
    first = Representation(network, layers[0], weights)
    representations = {each: Representation(first, each) for each in layers}
    code = autoencoder_of(autoencoder)
    data = FeatureData.of(
        images,
        held_out,
        batch_size=batch_size,
        crop=crop,
        views=views,
        skip_broken=skip_broken,
        cache=cache,
        progress=progress,
    )
    data.prepare(list(representations.values()), code)
    interpreters = {}
    for layer, representation in representations.items():
        max_steps = steps if isinstance(steps, int) else steps[layer]
        flow = new_flow(representation, code, seed, blocks=blocks, width=width, depth=depth)
        training = FlowTraining(
            representation,
            code,
            flow,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup=warmup,
            ema=ema,
            optimizer=optimizer,
            weight_decay=weight_decay,
            whiten=whiten,
            seed=seed,
        )
        folder = None if output is None else _folder(str(output), representation, resume)
        if folder:
            model: dict[str, Any] = {
                "network": _name(network),
                "layer": layer,
                "autoencoder": _name(autoencoder),
            }
            model |= {"weights": _name(weights), "blocks": blocks, "width": width, "depth": depth}
            model |= {"learning_rate": learning_rate, "schedule": schedule, "warmup": warmup, "ema": ema}
            model |= {"optimizer": optimizer, "weight_decay": weight_decay, "whiten": whiten}
            config = {
                "seed_everything": seed,
                "trainer": {
                    "max_steps": max_steps,
                    "accelerator": accelerator,
                    "log_every_n_steps": log_every,
                },
                "model": model,
                "data": data.settings(),
                "cache": asdict(data.cache),
                "output": str(folder),
                "checkpoint_every": checkpoint_every,
                "samples_every": samples_every,
            }
            write_config(folder, config)
        go_on = folder / LAST if folder and resume else None
        with quiet():
            trainer = Trainer(
                max_steps=max_steps,
                accelerator=accelerator,
                devices=1,
                log_every_n_steps=log_every,
                enable_model_summary=False,
                enable_progress_bar=False,
                use_distributed_sampler=False,
                **parts(folder, checkpoint_every, samples_every, progress),
            )
            try:
                trainer.fit(training, datamodule=data, ckpt_path=go_on)
            except Stopped as stop:
                raise KeyboardInterrupt(str(stop)) from None
        interpreters[layer] = training.interpreter().eval()
        if folder and trainer.is_global_zero:
            interpreters[layer].save(folder)
    return interpreters


def _name(given: object) -> str | None:
    """What a config can say of a name or path; objects have none."""
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else None


def _folder(pattern: str, representation: Representation, resume: bool) -> Path:
    """The run's folder, new unless it is to be gone on with."""
    names = {"network": representation.network_name, "layer": representation.layer}
    wanted = Path(pattern.format(**names))
    folder, number = wanted, 1
    while not resume and ((folder / CONFIG).exists() or (folder / LAST).exists()):
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    check_writable(folder)
    print(f"run: {folder}", file=sys.stderr)
    return folder
