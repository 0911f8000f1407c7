"""`photos64`: one flow over maps for six layers of `alexnet_animals`, and for none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invariances.autoencoder.spatial import NOISE, SpatialAutoencoder
from invariances.autoencoder.storage import load_saved, save_autoencoder
from invariances.data.images import from_uint8
from invariances.flow.config import FlowConfig
from invariances.flow.layered import LayeredFlow
from invariances.recipes.photos_classifier import build_classifier
from invariances.recipes.photos_models import build_autoencoder, pack
from invariances.representation.representation import Representation, Representations
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.machine import bfloat16
from invariances.system.seeds import seeded
from invariances.training.layered import LayeredRun, columns, train_layered
from invariances.training.metrics_file import MetricsFile
from invariances.training.run_folder import METRICS
from invariances.zoo.interpreters import save_layered
from invariances.zoo.small_resnet import load_classifier

LAYERS = ("conv2", "conv3", "conv5", "fc6", "fc8", "softmax")
SEED = 0
STEPS = 40_000


class Photos:
    """What a step learns from: latents of photos, half of them mirrored, and what each layer says of its share.

    Latents come from a file, both ways round; representations are computed as they are needed, in bfloat16.

    Args:
        pictures: uint8 (N, H, W, 3).
        latents: float16 (2, N, C, h, w), of the photos and of their mirror images.
        layers: Of the network.
    """

    def __init__(self, pictures: Tensor, latents: np.ndarray[Any, Any], layers: Representations) -> None:
        self.pictures, self.latents, self.layers = pictures, latents, layers

    @property
    def count(self) -> int:
        """Pictures of an epoch."""
        return len(self.pictures)

    def batch(self, step: int, per_layer: int) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """(latents, layer -> (places, representations)) of a step: so many photos for each layer, from its number."""
        names = self.layers.names
        count, generator = per_layer * len(names), seeded("photos64", SEED, step)
        chosen = torch.randint(len(self.pictures), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        means = torch.from_numpy(self.latents[mirrored.long().numpy(), chosen.numpy()]).float()
        latents = means + NOISE * torch.randn(means.shape, generator=generator)
        images = from_uint8(self.pictures[chosen])
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
            said = self.layers(images)
        places = torch.arange(count).view(len(names), per_layer)
        told = {name: (own, said[name][own].float().clone()) for name, own in zip(names, places, strict=True)}
        return latents, told


@torch.inference_mode()
def latents_of(autoencoder: SpatialAutoencoder, pictures: Tensor, path: Path) -> np.ndarray[Any, Any]:
    """The means (2, N, C, h, w) of photos and of their mirror images, float16, computed once and mapped from disk."""
    shape = (2, len(pictures), *autoencoder.latent_shape)
    if not path.is_file():
        with atomic(path) as draft, draft.open("wb") as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for mirrored in (False, True):
                parts = tqdm(torch.split(pictures, 128), desc="latents", unit="batch", file=sys.stderr)
                for part in parts:
                    images = from_uint8(part.flip(2) if mirrored else part)
                    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
                        means = autoencoder.encode(images).mode()
                    file.write(means.half().contiguous().numpy().tobytes())
    found: np.ndarray[Any, Any] = np.load(path, mmap_mode="r")
    if found.shape != shape:
        raise UserError(f"{path} holds latents of shape {found.shape}, not {shape}; remove it")
    return found


def build(output: str | Path, photos: str | Path, weights: str | Path, steps: int = STEPS) -> None:
    """`photos64_ae`, `alexnet_animals` and `photos64`, float16, in `output`; a stopped run goes on where it was.

    On one core of a Zen 4 the autoencoder takes an hour, the classifier some minutes, and the flow about five hours.

    Args:
        output: Folder to write to.
        photos: As of `pack`.
        weights: AlexNet's convolutions and LPIPS' linear layers.
        steps: Of the flow.
    """
    folder, weights = Path(output), Path(weights)
    if not weights.is_file():
        raise UserError(f"there is no file {weights}; give AlexNet's convolutions and LPIPS' linear layers")
    kept = folder / "photos64_ae.safetensors"
    if not kept.is_file():
        trained = load_saved(build_autoencoder(folder, Path(photos), weights))
        save_autoencoder(trained, kept, torch.float16)
    if not (folder / "alexnet_animals.safetensors").is_file():
        build_classifier(folder, Path(photos), weights)
    pictures, kept_out, _ = pack(Path(photos), folder)
    autoencoder = load_saved(kept)
    assert isinstance(autoencoder, SpatialAutoencoder)
    run = LayeredRun(
        folder / "photos64", steps, loggers=[MetricsFile(folder / "photos64" / METRICS, columns(LAYERS))]
    )
    build_flow(folder, pictures, kept_out, autoencoder, run)


def build_flow(
    folder: Path, pictures: Tensor, kept_out: Tensor, autoencoder: SpatialAutoencoder, run: LayeredRun
) -> Path:
    """`photos64`, float16; a stopped run goes on. The file that is kept.

    Args:
        folder: To work in: holds `alexnet_animals.safetensors`, and the latents once they are computed.
        pictures: uint8 (N, H, W, 3), of `pack`.
        kept_out: Which of them are never learnt from.
        autoencoder: `photos64_ae`.
        run: How long, and where to.
    """
    layers = Representation.many(load_classifier(folder / "alexnet_animals.safetensors"), LAYERS)
    for each in layers:
        each.network.to(memory_format=torch.channels_last)
    learnt = pictures[~kept_out]
    code = autoencoder.fingerprint()
    data = Photos(learnt, latents_of(autoencoder, learnt, folder / f"photos64_{code}.npy"), layers)
    others = pictures[kept_out]
    latents = latents_of(autoencoder, others, folder / f"photos64_{code}_kept_out.npy")
    held_out = Photos(others, latents, layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        flow = untrained(layers, autoencoder.latent_shape)
    average = train_layered(flow, data, held_out, run)
    return save_flow(average, layers, autoencoder, run.folder / "photos64.safetensors")


def untrained(layers: Representations, latent_shape: tuple[int, int, int]) -> LayeredFlow:
    """The flow's architecture for these layers."""
    shapes = {each.layer: each.shape for each in layers}
    chances = [each.layer for each in layers if each.probabilities]
    return LayeredFlow(FlowConfig.maps(), latent_shape, shapes, chances)


def save_flow(
    flow: LayeredFlow, layers: Representations, autoencoder: SpatialAutoencoder, path: Path
) -> Path:
    """Write the flow, float16, and what it belongs to."""
    code = autoencoder.fingerprint()
    notes = {
        each.layer: {"network_fingerprint": each.fingerprint(), "autoencoder_fingerprint": code}
        for each in layers
    }
    return save_layered(path, flow, notes)
