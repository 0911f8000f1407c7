"""`photos64_*`: an autoencoder of real photos, and what stands on it, from nothing."""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from invariances.autoencoder.lpips import LPIPS
from invariances.autoencoder.spatial import SpatialAutoencoder
from invariances.data.splitting import held_out_places
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.training.autoencoder import fit_autoencoder
from invariances.training.autoencoder_config import Objective, Schedule
from invariances.training.config import Precision, RunConfig
from invariances.zoo.runs import AUTOENCODER

SIZE, CHANNELS, SEED, HELD_OUT = 64, 32, 0, 0.05
FOLDERS, ARCHIVES = ("animals64", "animalfaces10"), ("animals64_more.tar", "dogs64.tar")
OBJECTIVE = Objective(perceptual=1.0, kl=0.0, adversarial=0.0)
SCHEDULE = Schedule(steps=4_000, batch_size=32, learning_rate=1e-3, warmup=100, ema=0.998, shift=0)
PHOTOS, NAMES = "photos64.npy", "photos64.json"


def pack(photos: Path, folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """All photos of 64 pixels as uint8 (N, 64, 64, 3), which of them are kept out (N,), and their names.

    They are packed once, to `folder`; a photo is kept out by a hash of its class and name.

    Args:
        photos: Holds `FOLDERS` and `ARCHIVES`.
        folder: To pack to.

    Raises:
        UserError: Photos are missing.
    """
    path, index = folder / PHOTOS, folder / NAMES
    if not index.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        names, arrays = [], []
        for name, picture in tqdm(_pictures(photos), desc="packing photos", unit="img", file=sys.stderr):
            names.append(name)
            arrays.append(picture)
        with atomic(path) as draft, draft.open("wb") as file:
            np.save(file, np.stack(arrays))
        with atomic(index) as draft:
            draft.write_text(json.dumps(names), encoding="utf-8")
    names = json.loads(index.read_text(encoding="utf-8"))
    pictures = torch.from_numpy(np.load(path))
    kept_out = torch.zeros(len(names), dtype=torch.bool)
    kept_out[held_out_places(names, HELD_OUT, SEED)] = True
    return pictures, kept_out, names


def _pictures(photos: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """(class/name, uint8 (64, 64, 3)), each content once."""
    seen: set[bytes] = set()
    for name, raw in _files(photos):
        picture = Image.open(BytesIO(raw)).convert("RGB")
        if picture.size != (SIZE, SIZE):
            side = min(picture.size)
            left, upper = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, upper, left + side, upper + side)
            picture = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        array = np.asarray(picture)
        digest = hashlib.blake2b(array.tobytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield name, array


def _files(photos: Path) -> Iterator[tuple[str, bytes]]:
    for folder in FOLDERS:
        paths = sorted((photos / folder).glob("*/*.*"))
        if not paths:
            raise UserError(f"there are no photos in {photos / folder}; give the folder that holds {FOLDERS}")
        for path in paths:
            yield f"{path.parent.name}/{path.name}", path.read_bytes()
    for archive in ARCHIVES:
        with tarfile.open(photos / archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None and member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                    yield "/".join(member.name.split("/")[-2:]), file.read()


def build_autoencoder(folder: Path, photos: Path, lpips: Path, precision: Precision = "bf16-mixed") -> Path:
    """`photos64_ae`: maps of 8×8×32 of photos of 64 pixels; a stopped run goes on. The file that is kept.

    Args:
        folder: To work in.
        photos: As of `pack`.
        lpips: AlexNet's convolutions and LPIPS' linear layers.
        precision: Of the training.
    """
    pictures, kept_out, _ = pack(photos, folder)
    run = RunConfig(
        str(folder / "photos64_ae"),
        resume=True,
        seed=SEED,
        precision=precision,
        checkpoint_every=250,
        device="cpu",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = SpatialAutoencoder(SIZE, CHANNELS)
    held_out = pictures[kept_out][:512]
    fit_autoencoder(
        pictures[~kept_out],
        held_out,
        vae=model,
        perceptual=LPIPS.from_file(lpips),
        objective=OBJECTIVE,
        schedule=SCHEDULE,
        run=run,
    )
    return folder / "photos64_ae" / AUTOENCODER
