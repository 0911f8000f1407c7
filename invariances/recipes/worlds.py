"""What quickstart looks at on one's own photos: which are kept out, and from class folders a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from invariances import zoo
from invariances.data.datasets import tell
from invariances.data.images import ImageFolder
from invariances.data.shapes import Shapes
from invariances.recipes.budget import FURTHER, halved, seconds_per_picture
from invariances.representation.representation import Representation
from invariances.system.cost import flops
from invariances.system.errors import UserError
from invariances.system.machine import bfloat16
from invariances.training.classifier import Lesson, train_classifier
from invariances.zoo.small_resnet import save_classifier

if TYPE_CHECKING:
    from invariances.recipes.quickstart import Effort


SIZE, AUTOENCODER, DRAWN_AUTOENCODER = 64, "photos64_ae", "shapes_vae"
PASSING = 0.2
"""Share of the minutes for passing pictures through the networks once, and as much for looking at samples."""
MOST_PICTURES, MOST_HELD_OUT = 18_000, 320
MOST_VALUES = 40_000
MOST_CROPS, MOST_FLOPS = 48, 20e12
"""At most so many crops of a photo; and of all photos as the network sees in some five minutes of two cores."""
_STAGES = ("stage", "layer", "blocks", "features")


@dataclass(frozen=True)
class World:
    """What quickstart looks at: pictures to train on and others kept out, a network and an autoencoder of them.

    Attributes:
        training: a data set.
        held_out: another one.
        autoencoder: its name.
        network: its name.
    """

    training: Any
    held_out: Any
    autoencoder: str
    network: str


def drawn_world(cuts: Sequence[tuple[str, str]], effort: Effort, seed: int) -> World:
    """Drawn pictures for the first cut's network: as many as the effort says, or as there is time to pass."""
    passed, looked = MOST_PICTURES, MOST_HELD_OUT
    if effort.minutes is not None and None in (effort.pictures, effort.held_out):
        networks = {network: Representation(network, layer) for network, layer in cuts}
        one = seconds_per_picture(networks.values(), zoo.load_autoencoder(DRAWN_AUTOENCODER))
        seconds = PASSING * 60 * effort.minutes
        passed = effort.pictures or halved(MOST_PICTURES, seconds / one)
        each = FURTHER * one / len(networks) * (2 + effort.samples) * len(cuts)
        looked = effort.held_out or halved(MOST_HELD_OUT, seconds / each)
        if passed < MOST_PICTURES or looked < MOST_HELD_OUT:
            tell(
                f"quickstart: {effort.minutes:g} minutes are short here: it trains on {passed:,} pictures and measures "
                f"on {looked}; on {MOST_PICTURES:,} and {MOST_HELD_OUT} where --minutes allow"
            )
    training = Shapes(effort.pictures or passed, seed=1000 + seed)
    return World(training, Shapes(effort.held_out or looked, seed=2), DRAWN_AUTOENCODER, cuts[0][0])


def own_world(
    images: str | Path, folder: Path, network: str | None, effort: Effort, seed: int, progress: bool
) -> World:
    """A folder of photos, some kept out, and a network that looks at them; class folders give one where none is named.

    Where photos are few, several random crops of each are trained on, here and by the flow.

    Args:
        images: the folder; folders per class in it give the classifier.
        folder: where the classifier is written to.
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
    training, held_out = photos.split(min(0.1, MOST_HELD_OUT / len(photos)), seed=seed)
    views = crops_of_each(len(training), effort.pictures or MOST_PICTURES, network)
    if views > 1:
        training = training.cropped(views)
        tell(f"quickstart: {len(training.paths)} pictures, {views} random crops of each")
    if network is None:
        path = folder / f"{Path(images).resolve().name}_classifier.safetensors"
        network = _classifier(path, training, effort, seed, progress)
    return World(training, held_out, AUTOENCODER, network)


def _classifier(path: Path, training: ImageFolder, effort: Effort, seed: int, progress: bool) -> str:
    """A classifier of the photos by their class folders, saved; its path."""
    pictures = training.tensor()
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
