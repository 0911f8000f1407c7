"""`alexnet_animals`: AlexNet's published convolutions with a head of our own over the animals of the photos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from invariances.data.images import from_uint8
from invariances.recipes.photos_models import pack
from invariances.representation.representation import Representation
from invariances.system.machine import bfloat16
from invariances.system.seeds import seeded
from invariances.system.weights import read_state_dict
from invariances.zoo.small_alexnet import Head, SmallAlexNet
from invariances.zoo.small_resnet import save_classifier

SEED, WIDTH = 0, 512
STEPS, BATCH, RATE, DECAY, SMOOTHING = 3_000, 256, 1e-3, 0.05, 0.1
OTHER_DOG = "dog of another breed"
ANIMALS = {
    "n01443537": "goldfish",
    "n01629819": "European fire salamander",
    "n01641577": "bullfrog",
    "n01644900": "tailed frog",
    "n01698640": "American alligator",
    "n01742172": "boa constrictor",
    "n01768244": "trilobite",
    "n01770393": "scorpion",
    "n01774384": "black widow",
    "n01774750": "tarantula",
    "n01784675": "centipede",
    "n01855672": "goose",
    "n01882714": "koala",
    "n01910747": "jellyfish",
    "n01917289": "brain coral",
    "n01944390": "snail",
    "n01945685": "slug",
    "n01950731": "sea slug",
    "n01983481": "American lobster",
    "n01984695": "spiny lobster",
    "n02002724": "black stork",
    "n02056570": "king penguin",
    "n02058221": "albatross",
    "n02074367": "dugong",
    "n02085620": "Chihuahua",
    "n02094433": "Yorkshire terrier",
    "n02099601": "golden retriever",
    "n02099712": "Labrador retriever",
    "n02106662": "German shepherd",
    "n02113799": "standard poodle",
    "n02114548": "white wolf",
    "n02117135": "hyena",
    "n02119022": "red fox",
    "n02123045": "tabby",
    "n02123159": "tiger cat",
    "n02123394": "Persian cat",
    "n02124075": "Egyptian cat",
    "n02125311": "cougar",
    "n02127052": "lynx",
    "n02128757": "snow leopard",
    "n02129165": "lion",
    "n02132136": "brown bear",
    "n02138441": "meerkat",
    "n02165456": "ladybug",
    "n02190166": "fly",
    "n02206856": "bee",
    "n02226429": "grasshopper",
    "n02231487": "walking stick",
    "n02233338": "cockroach",
    "n02236044": "mantis",
    "n02268443": "dragonfly",
    "n02279972": "monarch",
    "n02281406": "sulphur butterfly",
    "n02321529": "sea cucumber",
    "n02364673": "guinea pig",
    "n02395406": "hog",
    "n02403003": "ox",
    "n02410509": "bison",
    "n02415577": "bighorn",
    "n02423022": "gazelle",
    "n02437312": "Arabian camel",
    "n02480495": "orangutan",
    "n02481823": "chimpanzee",
    "n02486410": "baboon",
    "n02504458": "African elephant",
    "n02509815": "lesser panda",
}


def classes_of(names: Sequence[str]) -> Tensor:
    """The class of each photo, by its folder: its place in `ANIMALS`, or the one after them for other dogs."""
    places = {folder: place for place, folder in enumerate(ANIMALS)}
    return torch.tensor([places.get(name.split("/")[0], len(ANIMALS)) for name in names])


def build_classifier(folder: Path, photos: Path, weights: Path) -> Path:
    """`alexnet_animals`, float16: a few minutes. The file that is kept.

    Args:
        folder: To work in.
        photos: As of `pack`.
        weights: AlexNet's convolutions, with torchvision's names.
    """
    pictures, kept_out, names = pack(photos, folder)
    labels = classes_of(names)
    network = SmallAlexNet([*ANIMALS.values(), OTHER_DOG], WIDTH)
    network.take_convolutions(read_state_dict(weights)[0])
    cut = Representation(network, "flatten")
    learnt = pictures[~kept_out]
    views = [_pooled(cut, each) for each in (learnt, learnt.flip(2))]
    network.head = train_head(network.head, views, labels[~kept_out])
    logits = logits_of(network.eval(), pictures[kept_out])
    shares = accuracies(logits, labels[kept_out])
    print("alexnet_animals, photos kept out:", shares, file=sys.stderr)
    return save_classifier(network, folder / "alexnet_animals.safetensors", dtype=torch.float16, **shares)


def train_head(head: Head, views: Sequence[Tensor], labels: Tensor, steps: int = STEPS) -> Head:
    """The head, taught to name classes that come equally often.

    Args:
        head: Its sizes are taken, its weights made anew.
        views: Inputs (N, inputs) of each way to see the photos.
        labels: (N,).
        steps: Optimiser steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        head = Head(head.fc6.in_features, head.fc6.out_features, head.fc8.out_features).train()
        optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
        generator = seeded("alexnet_animals", SEED)
        often = 1 / torch.bincount(labels, minlength=head.fc8.out_features).clamp(min=1).float()
        for _ in tqdm(range(steps), desc="alexnet_animals", unit="step", file=sys.stderr):
            places = torch.multinomial(often[labels], BATCH, replacement=True, generator=generator)
            view = views[int(torch.randint(len(views), (), generator=generator))]
            loss = F.cross_entropy(head(view[places].float()), labels[places], label_smoothing=SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.inference_mode()
def _pooled(cut: Representation, pictures: Tensor) -> Tensor:
    """What the head is given of uint8 pictures (N, H, W, 3); float16 (N, inputs)."""
    cut.network.to(memory_format=torch.channels_last)
    parts = []
    for part in tqdm(torch.split(pictures, 128), desc="convolutions", unit="batch", file=sys.stderr):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
            parts.append(cut(from_uint8(part)).half())
    return torch.cat(parts)


@torch.inference_mode()
def logits_of(network: SmallAlexNet, pictures: Tensor) -> Tensor:
    """(N, classes) of uint8 pictures (N, H, W, 3)."""
    cut = Representation(network, "logits")
    return torch.cat([cut(from_uint8(part)) for part in torch.split(pictures, 128)])


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Shares of photos named rightly: of all, of the animals without other dogs, and the mean over classes."""
    right = (logits.argmax(dim=1) == labels).float()
    classes = torch.unique(labels)
    return {
        "top1": round(float(right.mean()), 4),
        "top1_animals": round(float(right[labels < len(ANIMALS)].mean()), 4),
        "mean_class": round(float(torch.stack([right[labels == each].mean() for each in classes]).mean()), 4),
    }
