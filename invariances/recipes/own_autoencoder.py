"""From folders of pictures to an autoencoder of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from invariances.autoencoder.lpips import LEAST_SIDE, LPIPS
from invariances.data.images import ImageFolder
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import check_writable, leaving_nothing
from invariances.training.autoencoder import fit_autoencoder, new_spatial, new_vae
from invariances.training.autoencoder_config import LPIPS_NAME
from invariances.training.perceptual import Features
from invariances.zoo.runs import AUTOENCODER


@leaving_nothing()
def train(config: Any, folders: Sequence[str] = ()) -> Path:
    """Trains an autoencoder as an `AutoencoderConfig` says; the file that is kept.

    Args:
        config: An `AutoencoderConfig`, or what has the same attributes.
        folders: Pictures, in place of `config.data.images`.

    Raises:
        UserError: The folder holds an autoencoder already, or pictures or network cannot be used.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    data, code, run = config.data, config.code, config.run
    kept = Path(run.output) / AUTOENCODER
    if os.path.exists(kept) and not run.resume:
        raise UserError(
            f"folder {run.output!r} holds an autoencoder already; go on with --resume, or choose another --output"
        )
    check_writable(run.output)
    if config.objective.perceptual and config.eyes.network is None:
        raise UserError(
            "a perceptual distance needs a network that compares; give --network and --layers, or no --perceptual"
        )
    perceptual = _distance(config.eyes, code.size)
    pictures = ImageFolder(folders or data.images, size=code.size, skip_broken=data.skip_broken)
    training, held_out = pictures.split(data.held_out, seed=data.split_seed)
    if data.views > 1 or data.crop == "random":
        training = training.cropped(data.views)
    spatial = code.kind == "spatial"
    fit_autoencoder(
        training.tensor(),
        held_out.tensor(),
        vae=new_spatial(code.size, run.seed) if spatial else new_vae(code.size, run.seed, **code.vae_sizes()),
        perceptual=perceptual,
        objective=config.objective,
        schedule=config.schedule,
        run=run,
    )
    return kept


def _distance(eyes: Any, size: int) -> Sequence[Features] | nn.Module:
    """How pictures are compared, as an `Eyes` says: at their size, or at the network's where it takes no other."""
    if eyes.network == LPIPS_NAME:
        if size < LEAST_SIDE:
            raise UserError(
                f"LPIPS sees nothing of {size} pixels; give --size {LEAST_SIDE} or more, or a network"
            )
        return LPIPS.from_file(eyes.weights)
    if eyes.network is None:
        return []
    for side in (size, None):
        seen = Representation.many(eyes.network, eyes.layers, weights=eyes.weights, size=side)
        try:
            for each in seen:
                each.shape  # noqa: B018
            break
        except UserError:
            if side is None:
                raise
    return [seen]
