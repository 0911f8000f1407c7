"""`animals64` and `animals10`: an autoencoder of animal photos and a classifier of ten kinds of animal faces."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from invariances.autoencoder.storage import save_autoencoder
from invariances.autoencoder.vae import VAE
from invariances.data.images import ImageFolder, from_uint8
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.training.autoencoder import fit_autoencoder
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.classifier import Lesson, train_classifier
from invariances.training.config import Precision, RunConfig
from invariances.zoo.small_resnet import SmallResNet, save_classifier

SIZE, HELD_OUT, SEED = 64, 0.1, 0
TEACHER, TEACHER_SIZE, VIEWS = "tf_efficientnet_lite0", 128, 3
EYE = ["blocks.0", "blocks.1", "blocks.2"]
FACES_PER_ANIMAL = 3
CLASS_NAMES = {
    "n02099601": "golden retriever",
    "n02114548": "white wolf",
    "n02117135": "hyena",
    "n02119022": "red fox",
    "n02123159": "tiger cat",
    "n02127052": "lynx",
    "n02128757": "snow leopard",
    "n02129165": "lion",
    "n02132136": "brown bear",
    "n02138441": "meerkat",
}
OBJECTIVE = Objective(perceptual=0.05, kl=1e-5, adversarial=0.6, adversarial_start=0.0)
WIDTH = 24
SCHEDULE = Schedule(steps=9_000, batch_size=32, learning_rate=5e-4, shift=2)


def faces_of(photos: Path, views: int = 1) -> tuple[ImageFolder, ImageFolder]:
    """The faces to learn from, in so many random crops, and the tenth of each kind that is kept out."""
    faces = ImageFolder(photos / "animalfaces10", SIZE, crop="random" if views > 1 else "center", views=views)
    train, held_out = faces.split(HELD_OUT, seed=SEED)
    return train, held_out.centred()


def build(
    output: str | Path, photos: str | Path, weights: str | Path, precision: Precision = "bf16-mixed"
) -> None:
    """Train both models, and write `animals64.safetensors` and `animals10.safetensors` (float16) to `output`.

    A stopped run goes on: a classifier that `output` holds already is not trained again.

    Args:
        output: folder to write to.
        photos: folder that holds `animalfaces10/` and `animals64/`, one folder per kind in each.
        weights: file of timm's `tf_efficientnet_lite0`, whose early layers compare pictures and whose last one
            teaches the classifier.
        precision: Lightning's, of the autoencoder's training.

    Raises:
        UserError: photos or weights are missing.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "animals10.safetensors").exists():
        build_classifier(folder, Path(photos), Path(weights))
    build_autoencoder(folder, Path(photos), Path(weights), precision)


def build_autoencoder(folder: Path, photos: Path, weights: Path, precision: Precision) -> VAE:
    """`animals64`: 64 pixels, 384 latents, from all animals and the faces thrice; a stopped run goes on."""
    eye = Representation.many(TEACHER, EYE, weights=_there(weights), size=SIZE)
    train, held_out = faces_of(photos)
    faces, animals = train.tensor(), ImageFolder(photos / "animals64", size=SIZE).tensor()
    pictures = torch.cat([animals, *[faces] * FACES_PER_ANIMAL])
    torch.manual_seed(SEED)
    vae: VAE = fit_autoencoder(
        pictures,
        held_out.tensor(),
        vae=VAE(SIZE, 384, width=32, max_width=96, blocks=2),
        perceptual=[eye],
        objective=OBJECTIVE,
        schedule=SCHEDULE,
        run=RunConfig(
            str(folder / "animals64"), resume=True, seed=SEED, precision=precision, checkpoint_every=500
        ),
    )
    save_autoencoder(vae, folder / "animals64.safetensors", torch.float16)
    return vae


def build_classifier(
    folder: Path, photos: Path, weights: Path, steps: tuple[int, int] = (5000, 500)
) -> SmallResNet:
    """`animals10`: first taught what an ImageNet network says of all animals, then the ten kinds of faces."""
    train, held_out = faces_of(photos, views=VIEWS)
    faces, animals = train.tensor(), ImageFolder(photos / "animals64", size=SIZE).tensor()
    pictures = torch.cat([animals, faces])
    network = Representation(TEACHER, "softmax", weights=_there(weights), size=TEACHER_SIZE)
    lesson = Lesson(batch_size=64, flip=True, half=True, seed=SEED)
    first = train_classifier(
        _channels_first(pictures),
        _says(network, pictures),
        width=WIDTH,
        lesson=replace(lesson, steps=steps[0]),
        description="what ImageNet says",
    )
    second = train_classifier(
        _channels_first(faces),
        torch.tensor(train.labels).repeat_interleave(train.views),
        classes=[CLASS_NAMES.get(each, each) for each in train.classes],
        width=WIDTH,
        lesson=replace(lesson, steps=steps[1], learning_rate=1e-3),
        start=first,
        description="ten faces",
    )
    accuracy = held_out_accuracy(second, held_out)
    print(f"animals10: {accuracy:.3f} of {len(held_out)} faces kept out named rightly", file=sys.stderr)
    save_classifier(second, folder / "animals10.safetensors", accuracy=accuracy, held_out=len(held_out))
    return second


@torch.inference_mode()
def _says(network: Representation, pictures: Tensor) -> Tensor:
    starts = tqdm(range(0, len(pictures), 64), desc="asking ImageNet", unit="batch")
    return torch.cat([network(from_uint8(pictures[start : start + 64])) for start in starts])


def _there(weights: Path) -> Path:
    if not weights.is_file():
        raise UserError(f"there is no file {weights}; give the weights of timm's {TEACHER}")
    return weights


@torch.inference_mode()
def held_out_accuracy(network: SmallResNet, faces: ImageFolder) -> float:
    """Share of faces whose kind the network names."""
    guesses = network(from_uint8(faces.tensor())).argmax(dim=1)
    return float((guesses == torch.tensor(faces.labels)).float().mean())


def _channels_first(pictures: Tensor) -> Tensor:
    return pictures.permute(0, 3, 1, 2).contiguous()
