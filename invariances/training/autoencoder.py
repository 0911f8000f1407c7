"""Training autoencoders: L1 + perceptual distance + KL, and a patch discriminator for sharpness."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from invariances.autoencoder.lpips import LPIPS
from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.images import from_uint8, spread
from invariances.report.grids import save_grid
from invariances.system.errors import UserError
from invariances.system.files import atomic, check_writable
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.averaging import Averaging
from invariances.training.callbacks import Progress
from invariances.training.config import RunConfig
from invariances.training.metrics_file import MetricsFile
from invariances.training.perceptual import Features, PatchDiscriminator, Perceptual
from invariances.training.run_folder import METRICS, SAMPLES, alone
from invariances.training.schedule import rate_factor
from invariances.training.stages import check_same
from invariances.training.stopping import LastCheckpoint
from invariances.training.stopping import run as run_trainer
from invariances.training.trainer import make_trainer, quiet, settled
from invariances.zoo.runs import AUTOENCODER, LAST

COLUMNS = ("l1", "perceptual", "kl", "critic", "held_out_mae")
_ROWS_EVERY = 20
_ENDLESS = 2**40
"""Batches of an epoch: a finished run that goes on with more steps is still in its first."""


def augment(pictures: Tensor, generator: torch.Generator, flip: bool, shift: int) -> Tensor:
    """Pictures (N, H, W, 3), each mirrored with probability ½ and moved by up to `shift` pixels."""
    if flip:
        mirrored = torch.rand(len(pictures), generator=generator) < 0.5
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(2), pictures)
    if shift:
        count, height, width, _ = pictures.shape
        moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
        rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
        columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
        pictures = pictures[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return pictures


class Batches:
    """Augmented uint8 pictures (N, H, W, 3), step by step; a batch is a function of (seed, step) alone.

    Args:
        pictures: uint8 (N, H, W, 3).
        schedule: Batch size, augmentation, and how many there are.
        seed: Of order and augmentation.
    """

    def __init__(self, pictures: Tensor, schedule: Schedule, seed: int) -> None:
        self.pictures, self.schedule, self.seed, self.step = pictures, schedule, seed, 0

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Tensor]:
        """The rest of the steps."""
        while self.step < self.schedule.steps:
            batch = self.at(self.step)
            self.step += 1
            yield batch

    def at(self, step: int) -> Tensor:
        """The batch of one step."""
        schedule, count = self.schedule, len(self.pictures)
        first = step * schedule.batch_size
        rows = []
        for epoch in range(first // count, (first + schedule.batch_size - 1) // count + 1):
            generator = torch.Generator().manual_seed(self.seed + 7919 * epoch)
            order = torch.randperm(count, generator=generator)
            begin = max(first - epoch * count, 0)
            rows.append(order[begin : first + schedule.batch_size - epoch * count])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return augment(self.pictures[torch.cat(rows)], generator, schedule.flip, schedule.shift)

    def state_dict(self) -> dict[str, Any]:
        """Where the batches stand."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.step = int(state["step"])


class AutoencoderTask(LightningModule):
    """One VAE and its critic, trained together.

    Args:
        vae: The network to train.
        objective: The weights of the loss; `complete`.
        schedule: Steps, batch size and rates.
        perceptual: A distance (images, target) -> (N,), or maps that each give {layer: features} of pictures in
            [-1, 1]; frozen, not part of a checkpoint.
        seed: Of the latents' noise.
        about: What a checkpoint must share with this run to go on with it.
    """

    name = "autoencoder"
    done_steps: Tensor

    def __init__(
        self,
        vae: VAE | SpatialAutoencoder,
        objective: Objective,
        schedule: Schedule,
        perceptual: Sequence[Features] | nn.Module = (),
        seed: int = 0,
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.learner, self.objective, self.schedule = vae, objective, schedule
        self.weights = objective.perceptual or 0.0, objective.kl or 0.0
        self.critic = PatchDiscriminator() if objective.adversarial else None
        self._perceptual: list[nn.Module] = []
        if isinstance(perceptual, nn.Module):
            self._perceptual = [perceptual]
        elif perceptual and objective.perceptual:
            self._perceptual = [Perceptual(perceptual)]
        self.register_buffer("done_steps", torch.zeros((), dtype=torch.long))
        self.about, self.seed, self.done, self.steps = about or {}, seed, 0, schedule.steps
        self.numbers: dict[str, float] = {}

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the VAE, and another for the critic."""
        rate = self.schedule.learning_rate
        fused = self.device.type in ("cpu", "cuda")
        learning = [each for each in self.learner.parameters() if each.requires_grad]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(learning, lr=rate, betas=(0.9, 0.99), fused=fused)
        ]
        if self.critic is not None:
            critic = self.critic.parameters()
            optimizers.append(torch.optim.Adam(critic, lr=rate / 2, betas=(0.5, 0.9), fused=fused))
        return optimizers

    def on_fit_start(self) -> None:
        """The distance is no part of this module, so that no checkpoint has it; it comes along all the same."""
        for each in self._perceptual:
            each.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what this run is."""
        checkpoint["invariances"] = self.about

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on after the last step that was saved.

        Raises:
            UserError: The checkpoint is of another run.
        """
        check_same(checkpoint.get("invariances"), self.about)
        self.done = int(checkpoint["state_dict"]["done_steps"])

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of the VAE, and of the critic once it has joined."""
        optimizers = self.optimizers()
        vae_optimizer, *critic_optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        images = from_uint8(batch).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator(images.device).manual_seed(self.seed + 31 * self.done)
        posterior = self.learner.encode(images)
        decoded = self.learner.decoder(posterior.sample(generator))
        picture = decoded.detach().requires_grad_()
        pixels = (picture - images).abs().mean()
        progress = self.done / self.schedule.steps
        distance = pixels.new_zeros(())
        if self._perceptual and progress >= self.objective.perceptual_start:
            distance = self._perceptual[0](picture, images).mean()
        kl = posterior.kl().mean()
        self._check_finite(pixels + distance + kl)
        (gradient,) = torch.autograd.grad(pixels + self.weights[0] * distance, picture)
        adversarial = self.critic is not None and progress >= self.objective.adversarial_start
        if adversarial:
            assert self.critic is not None
            (wish,) = torch.autograd.grad(-self.critic(picture).float().mean(), picture)
            ratio = gradient.norm() / wish.norm().clamp_min(1e-12)
            gradient = gradient + self.objective.adversarial * ratio * wish
        self._update(vae_optimizer, (decoded * gradient).sum() + self.weights[1] * kl)
        found = {"l1": pixels, "perceptual": distance, "kl": kl}
        if adversarial:
            assert self.critic is not None
            found["critic"] = self.critic.loss(images, picture.detach())
            self._update(critic_optimizers[0], found["critic"])
        self.done += 1
        self.done_steps.fill_(self.done)
        self.trainer.should_stop = self.done >= self.steps
        if self.done % _ROWS_EVERY == 0 or self.done == self.steps:
            self.numbers = {name: float(value) for name, value in found.items()}

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise UserError(
                f"the autoencoder's loss is not finite at step {self.done}; use a lower learning rate than "
                f"{self.schedule.learning_rate:g} (the last checkpoint before it is kept)"
            )

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        factor = rate_factor("cosine", self.schedule.warmup, self.schedule.steps)(self.done)
        for group in optimizer.param_groups:
            group.setdefault("highest_lr", group["lr"])
            group["lr"] = group["highest_lr"] * factor
        optimizer.zero_grad()
        self.manual_backward(loss)
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    def shown(self, outputs: Any) -> dict[str, float]:
        """What the bar says."""
        return self.numbers


class Keeper(Callback):
    """Rows of metrics; every so often the averaged autoencoder and a grid of held-out reconstructions.

    Args:
        folder: Of the run.
        averaging: The weights to keep.
        held_out: uint8 (M, S, S, 3).
        every: Steps between looks at them.
    """

    def __init__(self, folder: Path, averaging: Averaging, held_out: Tensor, every: int) -> None:
        self.folder, self.averaging, self.held_out, self.every = folder, averaging, held_out, every
        self.metrics = MetricsFile(folder / METRICS, COLUMNS)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin, or go on with, the file of metrics."""
        self.metrics.start(pl_module.done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look and keep where it is due."""
        step, last = pl_module.done, pl_module.done == pl_module.steps
        look = last or (self.every > 0 and step % self.every == 0)
        if not look and step % _ROWS_EVERY:
            return
        row = dict(pl_module.numbers)
        if look:
            row["held_out_mae"] = self._look(pl_module.device)
            self._keep(pl_module)
            pl_module.numbers = row
        self.metrics.log_metrics(row, step)

    @torch.inference_mode()
    def _look(self, device: torch.device) -> float:
        """Mean absolute error of reconstructions, pixels in [-1, 1]."""
        total = 0.0
        for part in torch.split(self.held_out, 64):
            images = from_uint8(part).to(device)
            total += float((self.averaging.average(images) - images).abs().sum())
        return total / self.held_out.numel()

    @torch.inference_mode()
    def _keep(self, task: Any) -> None:
        average: Any = self.averaging.average
        save_autoencoder(average, self.folder / AUTOENCODER)
        images = from_uint8(self.held_out[spread(10, len(self.held_out))])
        pairs = torch.stack([images, average(images.to(task.device)).cpu()])
        save_grid(pairs, self.folder / SAMPLES / f"step_{task.done:06d}.png", ["photo", "decoded"])


def fit_autoencoder(
    pictures: Tensor,
    held_out: Tensor,
    *,
    vae: VAE | SpatialAutoencoder | None = None,
    perceptual: Sequence[Features] | nn.Module = (),
    objective: Objective = Objective(),
    schedule: Schedule = Schedule(),
    run: RunConfig = RunConfig(output="runs/autoencoder"),
) -> Any:
    """Train an autoencoder on pictures in memory; its folder gets `autoencoder.safetensors`, `metrics.csv`, `samples/`.

    Ctrl-C and SIGTERM save `checkpoints/last.ckpt`; `run.resume` goes on from there.

    Args:
        pictures: uint8 (N, S, S, 3), the ones to learn from.
        held_out: uint8 (M, S, S, 3), only looked at.
        vae: The network to train, by default a VAE of 128 latents for S.
        perceptual: A distance, or networks whose layers compare pictures, each {layer: features} of pictures in
            [-1, 1].
        objective: Weights of the loss.
        schedule: Steps, batch size, rates.
        run: Folder, device, precision, seed, steps between looks at the held-out pictures.

    Returns:
        The averaged weights, in eval mode.

    Raises:
        UserError: The pictures are too few or not uint8, the loss is not finite, or a checkpoint is of another run.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or len(pictures) < 2 or len(held_out) < 1:
        raise UserError("fit_autoencoder needs uint8 pictures (N, S, S, 3), at least two, and one held out")
    folder = Path(run.output or "runs/autoencoder")
    check_writable(folder)
    last = folder / LAST
    resuming = run.resume and last.exists()
    vae = _started(vae or new_vae(pictures.shape[1], run.seed), pictures, run.seed, resuming)
    objective = objective.complete(isinstance(vae, SpatialAutoencoder), isinstance(perceptual, LPIPS))
    settings = {"vae": vae.config, "objective": asdict(objective), "schedule": asdict(schedule)}
    about = {
        **settings,
        "schedule": {key: value for key, value in asdict(schedule).items() if key != "steps"},
        "pictures": [
            hashlib.sha256(each.contiguous().numpy().data).hexdigest() for each in (pictures, held_out)
        ],
        "seed": run.seed,
    }
    task = AutoencoderTask(vae, objective, schedule, perceptual, run.seed, about)
    averaging = Averaging(vae, schedule.ema)
    keeper = Keeper(folder, averaging, held_out, run.checkpoint_every)
    bars = [Progress()] if run.progress else []
    callbacks = [averaging, keeper, *bars, LastCheckpoint(last, run.checkpoint_every)]
    with atomic(folder / "hparams.yaml") as draft:
        draft.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    with quiet(), alone(folder):
        trainer = make_trainer(settled(run), -1, callbacks, [], max_epochs=1)
        run_trainer(trainer, task, Batches(pictures, schedule, run.seed), last if resuming else None)
    kept: Any = averaging.average
    return kept.requires_grad_(False).eval()


def _started(
    vae: VAE | SpatialAutoencoder, pictures: Tensor, seed: int, resuming: bool
) -> VAE | SpatialAutoencoder:
    """A VAE's linear part at the principal components of some pictures, where it is not to read them from a file."""
    if isinstance(vae, VAE):
        if not resuming:
            some = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))[:20_000]
            vae.start_linear(from_uint8(pictures[some]))
        vae.freeze_linear()
    return vae


def new_vae(size: int, seed: int, **sizes: int) -> VAE:
    """A VAE for pictures of this size, its weights a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(size, **sizes)


def new_spatial(size: int, seed: int) -> SpatialAutoencoder:
    """A spatial autoencoder for pictures of this size, its weights a function of `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpatialAutoencoder(size)
