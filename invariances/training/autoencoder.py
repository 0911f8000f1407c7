"""Training the VAE: L1 + perceptual distance + KL, and a patch discriminator for sharpness."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.images import from_uint8, spread
from invariances.report.grids import save_grid
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.training.callbacks import MetricsFile, quiet
from invariances.training.perceptual import Features, PatchDiscriminator, Perceptual
from invariances.training.run_folder import METRICS
from invariances.training.schedule import rate_factor


@dataclass(frozen=True)
class Objective:
    """mean|x − x̂| + perceptual · d(x, x̂) + kl · KL(q ‖ N(0, I)), and a critic's gradient.

    Attributes:
        perceptual: weight of the perceptual distance.
        perceptual_start: share of the steps after which the perceptual distance joins.
        kl: weight of the KL divergence (nats per picture).
        adversarial: norm of the critic's gradient at the picture, as a share of the other terms'; 0 turns it off.
        adversarial_start: share of the steps after which the critic joins.
    """

    perceptual: float = 0.1
    perceptual_start: float = 0.0
    kl: float = 1e-5
    adversarial: float = 0.3
    adversarial_start: float = 0.6


@dataclass(frozen=True)
class Schedule:
    """Adam with a linear warm-up and a cosine decay to zero, and an exponential moving average of the weights.

    Attributes:
        steps: optimiser steps.
        batch_size: pictures per step.
        learning_rate: the highest.
        warmup: steps of linear warm-up.
        ema: decay of the averaged weights per step.
        flip: mirror pictures at random.
        shift: move pictures by up to so many pixels, borders repeated.
        seed: of weights, order, augmentation and noise.
    """

    steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    flip: bool = True
    shift: int = 0
    seed: int = 0

    def scale(self, step: int) -> float:
        """The learning rate at `step` as a share of the highest."""
        return rate_factor("cosine", self.warmup, self.steps)(step)


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


class _Steps(Sampler[int]):
    """The numbers of the steps still to do, so that a resumed run goes on with the very next batch."""

    def __init__(self, task: AutoencoderTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.task.done, self.task.schedule.steps))

    def __len__(self) -> int:
        return self.task.schedule.steps


class _Batches(Dataset[Tensor]):
    """Batch number → augmented uint8 pictures (N, H, W, 3), a function of (seed, number) alone."""

    def __init__(self, pictures: Tensor, schedule: Schedule) -> None:
        self.pictures, self.schedule = pictures, schedule

    def __getitem__(self, step: int) -> Tensor:
        schedule, count = self.schedule, len(self.pictures)
        first = step * schedule.batch_size
        rows = []
        for epoch in range(first // count, (first + schedule.batch_size - 1) // count + 1):
            order = torch.randperm(
                count, generator=torch.Generator().manual_seed(schedule.seed + 7919 * epoch)
            )
            begin = max(first - epoch * count, 0)
            rows.append(order[begin : first + schedule.batch_size - epoch * count])
        generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
        return augment(self.pictures[torch.cat(rows)], generator, schedule.flip, schedule.shift)


class _Chunks(Dataset[Tensor]):
    """Pictures in order, 64 at a time."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return math.ceil(len(self.pictures) / 64)

    def __getitem__(self, chunk: int) -> Tensor:
        return self.pictures[64 * chunk : 64 * (chunk + 1)]


class AutoencoderTask(pl.LightningModule):
    """One VAE, its averaged copy and its critic, trained together.

    Args:
        vae: the network to train.
        objective: the weights of the loss.
        schedule: steps, batch size and rates.
        perceptual: maps each give {layer: features} of pictures in [-1, 1]; frozen, not part of a checkpoint.
    """

    def __init__(
        self, vae: VAE, objective: Objective, schedule: Schedule, perceptual: Sequence[Features] = ()
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.vae, self.objective, self.schedule = vae, objective, schedule
        average = get_ema_multi_avg_fn(schedule.ema)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(vae, multi_avg_fn=average)
        self.critic = PatchDiscriminator() if objective.adversarial else None
        self._perceptual = [Perceptual(perceptual)] if perceptual and objective.perceptual else []
        self.register_buffer("done_steps", torch.zeros((), dtype=torch.long))
        self.done = 0

    done_steps: Tensor

    @property
    def result(self) -> VAE:
        """The averaged weights, the ones to keep."""
        averaged = self.averaged.module
        assert isinstance(averaged, VAE)
        return averaged

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the VAE, and another for the critic."""
        rate = self.schedule.learning_rate
        fused = self.device.type in ("cpu", "cuda")
        learning = [each for each in self.vae.parameters() if each.requires_grad]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(learning, lr=rate, betas=(0.9, 0.99), fused=fused)
        ]
        if self.critic is not None:
            optimizers.append(
                torch.optim.Adam(self.critic.parameters(), lr=rate / 2, betas=(0.5, 0.9), fused=fused)
            )
        return optimizers

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on after the last step that was saved."""
        self.done = int(checkpoint["state_dict"]["done_steps"])

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """One step of the VAE, and of the critic once it has joined."""
        optimizers = self.optimizers()
        vae_optimizer, *critic_optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        images = from_uint8(batch).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator(images.device).manual_seed(self.schedule.seed + 31 * self.done)
        posterior = self.vae.encode(images)
        decoded = self.vae.decoder(posterior.sample(generator))
        picture = decoded.detach().requires_grad_()
        pixels = (picture - images).abs().mean()
        progress = self.done / self.schedule.steps
        distance = pixels.new_zeros(())
        if self._perceptual and progress >= self.objective.perceptual_start:
            distance = self._perceptual[0](picture, images)
        (gradient,) = torch.autograd.grad(pixels + self.objective.perceptual * distance, picture)
        adversarial = self.critic is not None and progress >= self.objective.adversarial_start
        if adversarial:
            assert self.critic is not None
            (wish,) = torch.autograd.grad(-self.critic(picture).float().mean(), picture)
            ratio = gradient.norm() / wish.norm().clamp_min(1e-12)
            gradient = gradient + self.objective.adversarial * ratio * wish
        kl = posterior.kl().mean()
        self._update(vae_optimizer, (decoded * gradient).sum() + self.objective.kl * kl)
        self.averaged.update_parameters(self.vae)
        numbers = {"l1": pixels, "perceptual": distance, "kl": kl}
        if adversarial:
            assert self.critic is not None
            numbers["critic"] = self.critic.loss(images, picture.detach())
            self._update(critic_optimizers[0], numbers["critic"])
        if not torch.isfinite(pixels + kl):
            raise UserError(
                f"the autoencoder's loss is not finite at step {self.done}; use a lower learning rate than "
                f"{self.schedule.learning_rate:g} (the last checkpoint before it is kept)"
            )
        self.done += 1
        self.done_steps.fill_(self.done)
        self.log_dict({name: value.detach() for name, value in numbers.items()}, prog_bar=True)

    def _update(self, optimizer: Any, loss: Tensor) -> None:
        for group in optimizer.param_groups:
            group.setdefault("highest_lr", group["lr"])
            group["lr"] = group["highest_lr"] * self.schedule.scale(self.done)
        optimizer.zero_grad()
        self.manual_backward(loss)
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Mean absolute error of the averaged weights' reconstructions, pixels in [-1, 1]."""
        images = from_uint8(batch)
        error = (self.result(images) - images).abs().mean()
        self.log("held_out_mae", error, prog_bar=True, batch_size=len(images), sync_dist=True)


class _Keeper(Callback):
    """Saves the autoencoder and a grid of held-out reconstructions whenever held-out pictures were looked at."""

    def __init__(self, output: Path, pictures: Tensor) -> None:
        self.output, self.pictures = output, pictures

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, AutoencoderTask)
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        save_autoencoder(pl_module.result, self.output / "autoencoder.safetensors")
        images = from_uint8(self.pictures[spread(10, len(self.pictures))])
        with torch.inference_mode():
            pairs = torch.stack([images, pl_module.result(images.to(pl_module.device)).cpu()])
        path = self.output / "samples" / f"step_{pl_module.done:06d}.png"
        save_grid(pairs, path, ["photo", "decoded"])


class _Bar(TQDMProgressBar):
    """One bar on stderr, named for what is trained, without another for every look at the held-out pictures."""

    def init_train_tqdm(self) -> Any:
        return Tqdm(disable=self.is_disabled, unit="step", dynamic_ncols=True, file=sys.stderr)

    def on_train_epoch_start(self, trainer: pl.Trainer, *unused: Any) -> None:
        super().on_train_epoch_start(trainer, *unused)
        self.train_progress_bar.set_description("autoencoder")

    def init_validation_tqdm(self) -> Any:
        return Tqdm(disable=True)


def fit_autoencoder(
    pictures: Tensor,
    held_out: Tensor,
    output: str | os.PathLike[str],
    *,
    vae: VAE | None = None,
    perceptual: Sequence[Features] = (),
    objective: Objective = Objective(),
    schedule: Schedule = Schedule(),
    precision: str = "32-true",
    validate_every: int = 1000,
    resume: bool = False,
    progress: bool = True,
) -> VAE:
    """Train a VAE on pictures in memory; writes `autoencoder.safetensors`, `metrics.csv`, `samples/` to `output`.

    Ctrl-C and SIGTERM save `checkpoints/last.ckpt`; `resume=True` goes on from there.

    Args:
        pictures: uint8 (N, S, S, 3), the ones to learn from.
        held_out: uint8 (M, S, S, 3), only looked at.
        output: folder to write to.
        vae: the network to train, by default one of 128 latents for S.
        perceptual: networks whose layers compare pictures, each {layer: features} of pictures in [-1, 1].
        objective: weights of the loss.
        schedule: steps, batch size, rates, seed.
        precision: Lightning's; "bf16-mixed" is faster on processors that have it.
        validate_every: steps between looks at the held-out pictures.
        resume: go on from `output/checkpoints/last.ckpt` where there is one.
        progress: show a progress bar.

    Returns:
        The averaged weights, in eval mode.

    Raises:
        UserError: the pictures are too few or not uint8, or the loss is not finite.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or len(pictures) < 2 or len(held_out) < 1:
        raise UserError("fit_autoencoder needs uint8 pictures (N, S, S, 3), at least two, and one held out")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(schedule.seed)
    vae = vae or VAE(size=pictures.shape[1])
    last = folder / "checkpoints" / "last.ckpt"
    resuming = resume and last.exists()
    if not resuming:
        some = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(schedule.seed))[:20_000]
        vae.start_linear(from_uint8(pictures[some]))
    vae.freeze_linear()
    task = AutoencoderTask(vae, objective, schedule, perceptual)
    settings = {"vae": vae.config, "objective": asdict(objective), "schedule": asdict(schedule)}
    task.save_hyperparameters(settings)
    finished = 0
    if resuming:
        checkpoint = torch.load(last, weights_only=True)
        task.done = int(checkpoint["state_dict"]["done_steps"])
        finished = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    metrics = MetricsFile(folder / METRICS, ("l1", "perceptual", "kl", "critic", "held_out_mae"))
    metrics.start(task.done - 1)
    with atomic(folder / "hparams.yaml") as draft:
        draft.write_text(yaml.safe_dump(settings, sort_keys=False))
    keeper = _Keeper(folder, held_out)
    saver = ModelCheckpoint(
        folder / "checkpoints", save_top_k=0, save_last=True, every_n_train_steps=validate_every
    )
    bar: list[Callback] = [_Bar(refresh_rate=20)] if progress else []
    with quiet():
        trainer = pl.Trainer(
            accelerator="auto",
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=finished + 1,
            logger=metrics,
            callbacks=[saver, keeper, *bar],
            val_check_interval=min(validate_every, max(schedule.steps - task.done, 1)),
            num_sanity_val_steps=0,
            log_every_n_steps=20,
            enable_progress_bar=progress,
            enable_model_summary=False,
        )
    train = DataLoader(_Batches(pictures, schedule), sampler=_Steps(task), batch_size=None)
    validation = DataLoader(_Chunks(held_out), batch_size=None)

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with quiet():
            trainer.fit(task, train, validation, ckpt_path=last if resuming else None, weights_only=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        if task.done:
            with quiet():
                trainer.save_checkpoint(last)
            save_autoencoder(task.result, folder / "autoencoder.safetensors")
    return task.result.requires_grad_(False).eval()
