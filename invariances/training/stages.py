"""The stages of a run: a regression embedder is taught first, then the flow; each learns from features alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.features.stream import Batch, FeatureSource, FeatureStream
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.flow import ConditionalFlow
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.training.adam import AdamInBackward
from invariances.training.config import LearningConfig
from invariances.training.muon import MuonAdam
from invariances.training.schedule import rate_factor

TEACHING: dict[str, Any] = {"lr": 0.02, "betas": (0.9, 0.99), "weight_decay": 0.2}
"""How a regression embedder learns, whatever the pictures per step."""


class Stage(LightningModule):
    """A part of a run. Only what it teaches is a submodule: networks under study never train, move or get saved.

    Args:
        learner: What learns.
        features: To learn from.
        kept_out: To measure on.
        learning: How.
        steps: Of this stage.
        seed: Of the order of the data and of the latents' noise.
        before: Steps of earlier stages, for the numbers of rows and grids.
    """

    name, loss_name = "", "nll"

    def __init__(
        self,
        learner: nn.Module,
        features: FeatureSource,
        kept_out: FeatureSource,
        learning: LearningConfig,
        steps: int,
        seed: int,
        before: int = 0,
    ) -> None:
        super().__init__()
        self.learner = learner
        self.sources = (features, kept_out)
        self.learning, self.steps, self.seed, self.before = learning, steps, seed, before
        self.about: dict[str, Any] = {}
        self.loss_sum, self.loss_count = torch.zeros(()), 0

    @property
    def done(self) -> int:
        """Steps done in this stage."""
        return self.global_step

    @property
    def step(self) -> int:
        """Steps done since the run began."""
        return self.before + self.done

    def shown(self, outputs: Any) -> dict[str, float]:
        """What the bar says of a step's outputs."""
        name = "nats/dim" if self.loss_name == "nll" else self.loss_name
        return {name: self.per_dim(float(outputs["loss"]))}

    @property
    def latent_dim(self) -> int:
        """D."""
        return math.prod(self.sources[0].latent_shape)

    def losses(self, batch: Batch) -> Tensor:
        """What is learnt by, (N,)."""
        raise NotImplementedError

    def log_prob(self, learner: nn.Module, latent: Tensor, told: Tensor) -> Tensor:
        """Log p(z̄ | z) in nats, (N,), by what learns or its average."""
        raise NotImplementedError

    def per_dim(self, loss: float) -> float:
        """The mean loss as metrics.csv reports it."""
        raise NotImplementedError

    def on_train_start(self) -> None:
        """Lightning leaves modes as they are; what learns is in training mode."""
        self.train()

    def train_dataloader(self) -> FeatureStream:
        """This rank's batches."""
        trainer = self.trainer
        size = self.learning.batch_size
        return FeatureStream(self.sources[0], size, self.seed, trainer.global_rank, trainer.world_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean of `losses`."""
        loss = self.losses(batch).mean()
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
                f"the loss is no longer finite at step {self.step + 1}, so training stops and the last good "
                "checkpoint stays; lower --learning.learning_rate"
            )

    def take_loss(self) -> float:
        """The mean loss since the last call, over all ranks, per dimension."""
        total = torch.stack([self.loss_sum, torch.full_like(self.loss_sum, float(self.loss_count))])
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return self.per_dim(float(total[0] / total[1]))

    @torch.inference_mode()
    def held_out_nll(self, learner: nn.Module) -> float:
        """−E log p(z̄ | z) / D over the pictures kept out, each latent one draw that is the same at every call."""
        source, trainer = self.sources[1], self.trainer
        total = torch.zeros(2, dtype=torch.float64)
        learner.eval()
        for indices, mean, logvar, told in source.chunks(rank=trainer.global_rank, world=trainer.world_size):
            latent = DiagonalGaussian(mean, logvar).sample(seeded("held out", int(indices[0])))
            nll = -self.log_prob(learner, latent.to(self.device), told.to(self.device))
            total += torch.tensor([float(nll.double().sum()), float(len(nll))], dtype=torch.float64)
        self.train()
        total = trainer.strategy.reduce(total.to(self.device, torch.float32), reduce_op="sum")
        return float(total[0] / total[1]) / self.latent_dim

    def parts(self, batch: Batch) -> dict[str, float]:
        """What the loss is made of, for a batch and as many pictures held out; of a flow's likelihood alone."""
        return {}

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh one."""
        raise NotImplementedError

    def factor(self, step: int) -> float:
        """The learning rate's factor."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """`optimizer` and `factor`, by steps."""
        optimizer = self.optimizer()
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what this run is, and the loss since the last report."""
        self.check_finite()
        about = {"stage": self.name, **self.about}
        if isinstance(self.learner, ConditionalFlow):
            about["probabilities"] = self.learner.probabilities
        checkpoint["invariances"] = about
        checkpoint["loss"] = (float(self.loss_sum), self.loss_count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another flow, layer, network, autoencoder, way to learn or set of pictures.

        Raises:
            UserError: Naming what differs.
        """
        check_same(checkpoint.get("invariances"), {"stage": self.name, **self.about})
        total, self.loss_count = checkpoint["loss"]
        self.loss_sum = torch.tensor(total)


def check_same(theirs: Any, ours: Mapping[str, Any]) -> None:
    """Refuses to go on where a checkpoint is of something else.

    Raises:
        UserError: Naming the first difference.
    """
    theirs = theirs if isinstance(theirs, dict) else {}
    for key, value in ours.items():
        was = theirs.get(key)
        if was == value:
            continue
        if key == "pictures":
            raise UserError(
                "the checkpoint was trained on other pictures, or another choice of those kept out; give the same "
                "files and options, or start a new run in another --output"
            )
        if isinstance(was, dict) and isinstance(value, dict):
            key, was, value = next(
                (f"{key}.{name}", was.get(name), each)
                for name, each in {**dict.fromkeys(was), **value}.items()
                if was.get(name) != each
            )
        raise UserError(
            f"the checkpoint is of another {key} ({was}) than this run's ({value}); use the config.yaml beside it, or "
            "start a new run"
        )


class Regression(Stage):
    """Teaches a regression embedder what the best diagonal Gaussian says of the latent: −log N(z̄; μ(z), σ²(z))."""

    name = "embedder"
    learner: RegressionEmbedder

    def losses(self, batch: Batch) -> Tensor:
        """Nats, (N,)."""
        latent, told, _ = batch
        return -self.learner.log_prob(latent, self.learner(told))

    def log_prob(self, learner: nn.Module, latent: Tensor, told: Tensor) -> Tensor:
        """Of the Gaussian."""
        assert isinstance(learner, RegressionEmbedder)
        return learner.log_prob(latent, learner(told))

    def per_dim(self, loss: float) -> float:
        """Nats per dimension."""
        return loss / self.latent_dim

    def optimizer(self) -> torch.optim.Optimizer:
        """`MuonAdam` with `TEACHING`."""
        learning = [each for each in self.learner.parameters() if each.requires_grad]
        return MuonAdam(learning, [each for each in learning if each.dim() > 1], **TEACHING, fused=True)

    def factor(self, step: int) -> float:
        """Up over a fifth of the steps, down to zero."""
        return rate_factor("cosine", self.steps // 5, self.steps)(step)


class FlowStage(Stage):
    """Teaches the flow: mean(½‖v‖²) − mean(log |det|), or the squared error of a continuous one's velocity.

    A frozen embedder's outputs may be looked up: `features` then give embeddings in place of representations.
    """

    name = "flow"
    learner: ConditionalFlow

    def __init__(self, *args: Any, embedded: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.embedded = embedded
        self.loss_name = "nll" if self.learner.transform.likelihood else "matching"
        if self.learner.embedder.taught_first:
            self.learner.embedder.requires_grad_(False)

    def losses(self, batch: Batch) -> Tensor:
        """What the flow's transform learns by, (N,)."""
        latent, told, _ = batch
        noise = seeded("flow", self.seed, self.global_step, self.global_rank)
        return self.learner.loss(latent, noise, **self._told(told))

    def log_prob(self, learner: nn.Module, latent: Tensor, told: Tensor) -> Tensor:
        """Of the flow."""
        assert isinstance(learner, ConditionalFlow)
        return learner.log_prob(latent, **self._told(told))

    @torch.no_grad()
    def parts(self, batch: Batch) -> dict[str, float]:
        """½‖v‖², log |det| and ½‖noise‖², per dimension, over all ranks."""
        if self.loss_name != "nll":
            return {}
        latent, told, _ = batch
        stream = self.train_dataloader()
        held_out = stream.drawn(self.sources[1], "held out batch", self.global_step)
        pairs = {"": (latent, told), "held_out_": tuple(each.to(self.device) for each in held_out[:2])}
        found: dict[str, Tensor] = {}
        for which, (x, z) in pairs.items():
            v, log_det = self.learner(x, **self._told(z))
            found[f"{which}half_square"] = 0.5 * v.flatten(1).float().square().sum(1).mean()
            found[f"{which}log_det"] = log_det.float().mean()
        noise = stream.noise("noise", self.global_step, latent.shape[1:])
        found["noise"] = 0.5 * noise.flatten(1).square().sum(1).mean().to(self.device)
        total = self.trainer.strategy.reduce(torch.stack(list(found.values())), reduce_op="mean")
        return {name: float(value) / self.latent_dim for name, value in zip(found, total)}

    def _told(self, told: Tensor) -> dict[str, Tensor]:
        return {"embedding" if self.embedded else "representation": told}

    def per_dim(self, loss: float) -> float:
        """Nats per dimension, loss / D + ½ log 2π; of a squared error the error itself."""
        return loss / self.latent_dim + 0.5 * math.log(2 * math.pi) if self.loss_name == "nll" else loss

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with the published betas, or `MuonAdam`."""
        learning = [each for each in self.learner.parameters() if each.requires_grad]
        settings: dict[str, Any] = {
            "lr": self.learning.rate(self.trainer.world_size),
            "betas": (0.5, 0.9),
            "weight_decay": self.learning.weight_decay,
        }
        adam = self.learning.optimizer == "adam"
        if adam and self.device.type == "cpu" and self.trainer.world_size == 1:
            return AdamInBackward(learning, **settings)
        settings["fused"] = self.device.type in ("cpu", "cuda")
        if adam:
            return torch.optim.AdamW(learning, **settings)
        return MuonAdam(learning, [each for each in learning if each.dim() > 1], **settings)

    def factor(self, step: int) -> float:
        """As the schedule says."""
        steps = self.steps
        return rate_factor(self.learning.schedule, self.learning.warmup * steps, steps)(step)
