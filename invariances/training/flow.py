"""Training the flow: minimise E[½‖v‖² − log |det ∂v/∂z̄|] over cached pairs of posterior and representation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from tqdm import tqdm

from invariances.features.stream import Batch
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.training.muon import MuonAdam
from invariances.training.schedule import RateSchedule, rate_factor
from invariances.training.start import start_embedder

Optimizer = Literal["adam", "muon", "muon_embedder"]


Keep = Literal["best", "last"]


PUBLISHED_RATE = 4.5e-6
"""Published learning rate per picture of a step."""


_REGRESSION_ADAM: dict[str, Any] = {"lr": 0.02, "betas": (0.9, 0.99), "weight_decay": 0.2}
"""How a residual embedder learns, whatever the pictures per step."""


_MOST_REMEMBERED = 250_000_000
"""Pictures times dimensions whose means and variances are kept in memory; 2 GB."""


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
        keep: "best": what remains in the end are the weights of the lowest held-out loss, as measured at the end of
            every epoch and of the run; "last": those of the last step.
        optimizer: "adam" as published, or "muon": all weight matrices by `MuonAdam`, which takes a fraction of the
            steps, and finds what a layer shows faintly; or "muon_embedder": those of the embedder alone, in steps that
            cost half as much.
        weight_decay: Share of each weight, times the learning rate, that is taken off at every step.
        whiten: Start a published embedder at whitened principal components and a linear guess of the latent, and
            whiten the vectors that a residual one reads; see `start_embedder`.
        regression: Share of the run's steps, the first ones, in which a residual embedder learns to regress the latent
            (by `MuonAdam`, its learning rate rising to 0.02 and falling to zero again); the blocks learn in the others,
            which `warmup` and `schedule` are of, and an embedder of vectors with them. A published embedder learns with
            the blocks from the first step on.
        auxiliary: Of shallower layers, which a residual embedder learns to guess beside the latent.
        seed: Of the order of the data and of the latents' noise.
    """

    def __init__(
        self,
        representation: Representation,
        autoencoder: nn.Module,
        flow: ConditionalFlow,
        *,
        learning_rate: float | None = None,
        schedule: RateSchedule = "constant",
        warmup: int = 0,
        ema: float = 0.0,
        keep: Keep = "best",
        optimizer: Optimizer = "adam",
        weight_decay: float = 0.0,
        whiten: bool = True,
        regression: float = 0.35,
        auxiliary: Sequence[Representation] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= regression < 1:
            raise UserError(f"regression is {regression}, but a share of the steps lies in [0, 1); try 0.35")
        if not 0 <= ema < 1:
            raise UserError(f"ema is {ema}, but a moving average's decay lies in [0, 1); try 0.999")
        if learning_rate is not None and not learning_rate > 0:
            raise UserError(f"learning_rate is {learning_rate}; it must be above 0")
        if optimizer not in get_args(Optimizer):
            raise UserError(
                f"optimizer {optimizer!r} is unknown; use {' or '.join(map(repr, get_args(Optimizer)))}"
            )
        if keep not in get_args(Keep):
            raise UserError(f"keep {keep!r} is unknown; use 'best' or 'last'")
        if not weight_decay >= 0:
            raise UserError(f"weight_decay is {weight_decay}; it must be 0 or above")
        self.flow = flow
        self.average = deepcopy(flow).requires_grad_(False).eval() if ema else None
        self.best = deepcopy(flow).requires_grad_(False).eval() if keep == "best" else None
        self.lowest = (0, math.inf)
        self.frozen = (representation, autoencoder.eval().requires_grad_(False))
        self.learning_rate, self.schedule, self.warmup = learning_rate, schedule, warmup
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.ema, self.whiten, self.seed = ema, whiten, seed
        self.regression, self.regression_steps, self.auxiliary = regression, 0, list(auxiliary)
        self.gaussians: Tensor | None = None
        self.loss_sum, self.loss_count = torch.zeros(()), 0

    @property
    def layer(self) -> str:
        """The layer at which the network is cut."""
        return self.frozen[0].layer

    @property
    def current(self) -> ConditionalFlow:
        """The flow to evaluate as training goes on: the average where there is one."""
        return self.flow if self.average is None else self.average

    @property
    def kept(self) -> ConditionalFlow:
        """The flow that remains: the best one that was measured where `keep` says so, else the current one."""
        measured = self.best is not None and self.lowest[0] > 0
        return self.best if measured else self.current  # type: ignore[return-value]

    def regressing(self, step: int | None = None) -> bool:
        """Whether the step of this number (from 0; by default the one to come) is one of the embedder's regression."""
        return (self.global_step if step is None else step) < self.regression_steps

    def matching(self, step: int | None = None) -> bool:
        """Whether that step's loss is a squared error of velocities, which a continuous flow learns by."""
        return self.flow.continuous and not self.regressing(step)

    def judge(self, step: int, held_out: float) -> None:
        """Remembers the lowest held-out loss (nats per dimension), its step, and the weights that reached it."""
        if held_out < self.lowest[1]:
            self.lowest = (step, held_out)
            if self.best is not None:
                self.best.load_state_dict(self.current.state_dict())

    def interpreter(self) -> Interpreter:
        """Network, autoencoder and the flow that remains."""
        return Interpreter(*self.frozen, self.kept)

    def nats_per_dim(self, loss: float) -> float:
        """Negative log-likelihood in nats per dimension, loss / D + ½ log 2π, where the loss is one of likelihood."""
        return loss / self.flow.latent_dim + 0.5 * math.log(2 * math.pi)

    def setup(self, stage: str) -> None:
        """Starts the embedder of a new run from the features."""
        if self.whiten and self.trainer.ckpt_path is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            start_embedder(self.flow, data.features(self.layer), self.seed, data.progress)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """mean(½‖v‖²) − mean(log |det|), or −mean(log N(z̄; μ, σ²)) of the regression; nats up to a constant.

        A continuous flow: mean(`ConditionalFlow.matching_loss`), after its regression.

        This is `value`; the `loss` of a regression with S auxiliary values adds −mean(log N(a; μ_a, σ_a²)) · D / S, so
        that they count as much as the latent.
        """
        latent, z, indices = batch
        net = self.flow.residual_embedder
        if net is not None and self.regressing():
            told = self.flow.gaussian(z)
            value = -net.log_prob(latent, told).mean() - 0.5 * self.flow.latent_dim * math.log(2 * math.pi)
            loss = value
            if self.auxiliary:
                seen = self._auxiliary(indices)
                share = self.flow.latent_dim / seen.shape[1]
                loss = loss - share * net.auxiliary_log_prob(seen, told).mean()
        elif self.flow.continuous:
            noise = seeded("matching", self.seed, self.global_step, self.global_rank)
            loss = value = self.flow.matching_loss(latent, z, self._gaussian(indices), noise).mean()
        else:
            invariance, log_det = self.flow(latent, z, self._gaussian(indices))
            loss = value = 0.5 * invariance.square().sum(dim=1).mean() - log_det.mean()
        if self.trainer.world_size > 1:
            for each in self._idle():  # DistributedDataParallel waits for a gradient of each parameter
                loss = loss + 0 * each.sum()
        self.loss_sum = self.loss_sum.to(value.device) + value.detach()
        self.loss_count += 1
        if loss.device.type == "cpu":
            self.check_finite()
        return {"loss": loss, "value": value.detach()}

    def _auxiliary(self, indices: Tensor) -> Tensor:
        """The auxiliary values (B, S) of these items."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        items = indices.cpu()
        seen = [data.features(each.layer).batch(items)[2] for each in self.auxiliary]
        return torch.cat(seen, dim=1).to(self.device)

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

    def _gaussian(self, indices: Tensor) -> Tensor | None:
        """What a residual embedder of maps passes on of these items, looked up: after the regression it is still."""
        if self.gaussians is None and self._still():
            self.gaussians = self._gaussians()
        return None if self.gaussians is None else self.gaussians[indices]

    @torch.no_grad()
    def _gaussians(self) -> Tensor | None:
        """Of all items, (n, 2 D); None where looking at each batch anew takes less time or much less memory."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        features = data.features(self.layer)
        steps = self.trainer.estimated_stepping_batches - self.regression_steps
        seen = steps * data.batch_size * self.trainer.world_size
        net = self.flow.residual_embedder
        told = 0 if net is None else net.told // 2
        if features.n > seen or features.n * told > _MOST_REMEMBERED:
            return None
        with tqdm(total=features.n, desc="embeddings", unit="img", delay=2, disable=not data.progress) as bar:
            parts = []
            for _, _, _, z in features.chunks():
                parts.append(self.flow.gaussian(z.to(self.device)))
                bar.update(len(z))
        return torch.cat(parts)

    def _learned(self, regression: bool) -> list[Tensor]:
        """Parameters that a residual embedder's regression teaches, or those that the flow's loss alone does."""
        net = self.flow.residual_embedder
        first = set() if net is None else {id(each) for each in net.regression_parameters()}
        return [each for each in self.flow.parameters() if (id(each) in first) == regression]

    def _idle(self) -> list[Tensor]:
        """Parameters that the step to come leaves alone."""
        if self.regressing():
            return self._learned(regression=False)
        net = self.flow.residual_embedder
        return [] if net is None else list(net.done_parameters())

    def _still(self) -> bool:
        """Whether there is a residual embedder that learns nothing more after its regression."""
        net = self.flow.residual_embedder
        return net is not None and net.still

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves the optimizer nothing to do with parameters whose turn it is not."""
        for each in self._idle():
            each.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step, then the average's: decay min(ema, step / (step + 10)), anew after a regression."""
        step = self.global_step - (0 if self.regressing() else self.regression_steps)
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
        """Train mode for the flow that learns; its average and the best one stay in eval mode."""
        super().train(mode)
        for still in (self.average, self.best):
            if still is not None:
                still.eval()
        return self

    def configure_optimizers(self) -> Any:
        """Fused Adam (or Muon with it), betas (0.5, 0.9), and a learning rate that is a function of the step."""
        rate = self.learning_rate
        if rate is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            rate = PUBLISHED_RATE * data.batch_size * self.trainer.world_size
        adam: dict[str, Any] = {
            "lr": rate,
            "betas": (0.5, 0.9),
            "weight_decay": self.weight_decay,
            "fused": True,
        }
        first = self._learned(regression=True)
        groups: list[dict[str, Any]] = [{"params": self._learned(regression=False), "regression": False}]
        if first:
            groups.append({"params": first, "regression": True, **_REGRESSION_ADAM})
        moved: dict[str, Iterable[Tensor]] = {
            "adam": first,
            "muon": self.flow.parameters(),
            "muon_embedder": self.flow.embedder.parameters(),
        }
        matrices = [each for each in moved[self.optimizer] if each.dim() > 1]
        optimizer = MuonAdam(groups, matrices, **adam) if matrices else torch.optim.AdamW(groups, **adam)
        steps = self.trainer.estimated_stepping_batches
        if first and not self.regression_steps:
            if not math.isfinite(steps):
                raise UserError("a residual embedder needs to know how many steps there are; give max_steps")
            self.regression_steps = int(self.regression * steps)
        factors = [self._rate_factor(steps, rate, group["regression"]) for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate_factor(self, steps: float, rate: float, regression: bool) -> Callable[[int], float]:
        """The learning rate's factor at each step for what the regression teaches, or for the others."""
        first = self.regression_steps
        flow = rate_factor(self.schedule, self.warmup, steps - first)
        if not regression:
            return lambda step: flow(step - first) if step >= first else 0.0
        alone = rate_factor("cosine", first // 5, first)
        after = 0.0 if self._still() else rate / _REGRESSION_ADAM["lr"]
        return lambda step: alone(step) if step < first else after * flow(step - first)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run to go on with it."""
        representation, autoencoder = self.frozen
        return {
            "flow": self.flow.config,
            "layer": representation.layer,
            "auxiliary": [each.layer for each in self.auxiliary],
            "network": representation.fingerprint(),
            "autoencoder": autoencoder.fingerprint(),  # type: ignore[operator]
            "average": self.average is not None,
            "keep": "last" if self.best is None else "best",
            "optimizer": self.optimizer,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what this run is, the loss since the last report, and the lowest held-out loss."""
        self.check_finite()
        checkpoint["invariances"] = self.identity()
        checkpoint["lowest"] = self.lowest
        checkpoint["regression_steps"] = self.regression_steps
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
        self.lowest = tuple(checkpoint["lowest"])
        self.regression_steps = checkpoint["regression_steps"]
        total, self.loss_count = checkpoint["loss"]
        self.loss_sum = torch.tensor(total)


def new_flow(
    representation: Representation,
    autoencoder: nn.Module,
    seed: int,
    auxiliary: Sequence[Representation] = (),
    **sizes: Any,
) -> ConditionalFlow:
    """A flow for this layer, this autoencoder and auxiliary layers, its weights a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalFlow(
            autoencoder.latent_dim,  # type: ignore[arg-type]
            representation.shape,
            embedder_auxiliary=sum(each.shape[0] for each in auxiliary),
            probabilities=representation.probabilities,
            **sizes,
        )
