"""Quickstart on one's own photos: the autoencoder and, from class folders, the classifier that it needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invariances.autoencoder.vae import VAE
from invariances.data.images import ImageFolder, from_uint8
from invariances.flow.config import FlowConfig
from invariances.recipes.budget import precision
from invariances.representation.representation import Representation
from invariances.system.cost import flops
from invariances.system.errors import UserError
from invariances.system.machine import bfloat16
from invariances.training.autoencoder import fit_autoencoder
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.classifier import Lesson, train_classifier
from invariances.training.config import LearningConfig, RunConfig
from invariances.zoo.small_resnet import save_classifier

if TYPE_CHECKING:
    from invariances.recipes.quickstart import Effort


SIZE, LATENTS, BATCH = 64, 128, 32
MOST_VALUES = 40_000
MOST_CROPS, MOST_FLOPS = 48, 20e12
"""At most so many crops of a photo; and of all photos as the network sees in some five minutes of two cores."""
OBJECTIVE = Objective(perceptual=0.05, kl=1e-5, adversarial=0.0)
WEIGHT_DECAY = 1.0
"""Of the flows of own photos: crops of a few hundred are learnt by heart with less."""
_STAGES = ("stage", "layer", "blocks", "features")


@dataclass(frozen=True)
class World:
    """What quickstart looks at: pictures to train on and others kept out, a network and an autoencoder of them.

    Attributes:
        training: a data set.
        held_out: another one.
        autoencoder: its name, or the module.
        network: its name.
        photos: whether these are a user's few photos and no drawn pictures without end.
    """

    training: Any
    held_out: Any
    autoencoder: str | nn.Module
    network: str
    photos: bool = False

    def flow(self, shape: Sequence[int], config: FlowConfig) -> FlowConfig:
        """The flow for a representation of this shape.

        A network that knows its few photos by heart gives others vectors unlike any that a regression has seen, so
        that vectors of photos have the published embedder.
        """
        if self.photos and len(shape) == 1:
            return replace(config, embedder=FlowConfig.published().embedder)
        return config

    def learning(self, config: LearningConfig) -> LearningConfig:
        """How the flows learn."""
        return replace(config, weight_decay=WEIGHT_DECAY) if self.photos else config


def own_world(
    images: str | Path, folder: Path, network: str | None, effort: Effort, seed: int, progress: bool
) -> World:
    """Train what is missing on a folder of photos; says beforehand, on stderr, how long that will take.

    Where photos are few, several random crops of each are trained on, here and by the flows.

    Args:
        images: the folder; folders per class in it give the classifier.
        folder: where the autoencoder and the classifier are written to.
        network: name of a network to look into instead.
        effort: steps.
        seed: of split, weights and batches.
        progress: bars on stderr.

    Raises:
        UserError: the folder is flat and no network is named, or there are too few pictures.
    """
    photos = ImageFolder(images, size=SIZE, skip_broken=True)
    if network is None and len(photos.classes) < 2:
        raise UserError(
            f"{images} has no folders per class to train a classifier on; name a network with --network, "
            "for example --network resnet50"
        )
    training, held_out = photos.split(min(0.1, effort.held_out / len(photos)), seed=seed)
    views = crops_of_each(len(training), effort.pictures, network)
    if views > 1:
        training = training.cropped(views)
    pictures, kept_out = training.tensor(), held_out.tensor()
    torch.manual_seed(seed)
    vae = VAE(SIZE, min(LATENTS, len(pictures)), width=32, max_width=192)
    seconds = effort.autoencoder_steps * seconds_per_step(vae, pictures)
    print(
        f"quickstart: the autoencoder learns {len(training.paths)} pictures"
        f"{f', {views} random crops of each,' if views > 1 else ''} in {effort.autoencoder_steps} steps, "
        f"about {max(1, round(seconds / 60))} min on this machine; then come the flows",
        file=sys.stderr,
    )
    eyes: list[Any] = []
    if network is None:
        network = _classifier(
            folder / f"{Path(images).resolve().name}_classifier.safetensors",
            training,
            pictures,
            effort,
            seed,
            progress,
        )
        eyes = [Representation.many(network, ["stage1", "stage2"])]
    run = RunConfig(
        str(folder / "autoencoder"),
        seed=seed,
        precision=precision(),
        checkpoint_every=max(1, effort.autoencoder_steps // 4),
        progress=progress,
    )
    schedule = Schedule(steps=effort.autoencoder_steps, batch_size=BATCH, shift=0)
    vae = fit_autoencoder(
        pictures, kept_out, vae=vae, perceptual=eyes, objective=OBJECTIVE, schedule=schedule, run=run
    )
    return World(training, held_out, vae, network, photos=True)


def _classifier(
    path: Path, training: ImageFolder, pictures: Tensor, effort: Effort, seed: int, progress: bool
) -> str:
    """A classifier of the photos by their class folders, saved; its path."""
    classifier = train_classifier(
        pictures.permute(0, 3, 1, 2).contiguous(),
        torch.tensor(training.labels).repeat_interleave(len(pictures) // len(training.labels)),
        classes=training.classes,
        lesson=Lesson(effort.classifier_steps, 64, flip=True, half=bfloat16(), seed=seed),
        progress=progress,
        description=f"classifier of {len(training.classes)} classes",
    )
    return str(save_classifier(classifier, path))


def crops_of_each(photos: int, wanted: int, network: str | nn.Module | None) -> int:
    """How many random crops of each photo make about `wanted` pictures, within `MOST_CROPS` and `MOST_FLOPS`."""
    most = min(MOST_CROPS, wanted // photos)
    if network is not None and most > 1:
        cut = Representation(network, list(Representation.layers(network))[-1])
        most = min(most, int(MOST_FLOPS / (flops(cut, torch.zeros(1, 3, SIZE, SIZE)) * photos)))
    return max(1, most)


def seconds_per_step(vae: VAE, pictures: Tensor, steps: int = 3) -> float:
    """How long one training step of the autoencoder takes here, measured on `steps` of them."""
    images = from_uint8(pictures[:BATCH])
    started = 0.0
    for step in range(steps + 1):
        if step == 1:
            started = time.monotonic()  # the first one warms up
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
            loss = (vae.decoder(vae.encode(images).sample()) - images).abs().mean()
        loss.backward()
        vae.zero_grad(set_to_none=True)
    return 1.15 * (time.monotonic() - started) / steps


def layers_worth_seeing(shapes: Mapping[str, Sequence[int]], count: int = 4) -> list[str]:
    """About `count` of a network's layers, from the first that is small enough for a cache to the last.

    Args:
        shapes: as `Representation.layers` gives them.
        count: how many.
    """
    small = [
        name
        for name, shape in shapes.items()
        if len(shape) in (1, 3) and torch.Size(shape).numel() <= MOST_VALUES and name.count(".") <= 1
    ]
    last = [name for name in ("softmax", "logits") if name in small][:1]
    room = max(1, count - len(last))
    parts = [name for name in small if name.startswith(_STAGES)]
    whole = [name for name in parts if "." not in name]
    parts = whole if len(whole) >= room else parts
    names = [name for name in (parts or small) if name not in ("input", "logits", "softmax")]
    places = torch.linspace(0, len(names) - 1, min(room, len(names))).round().long().tolist()
    return [*dict.fromkeys(names[place] for place in places), *last]
