"""From folders of pictures to an autoencoder of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invariances.data.images import ImageFolder
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import check_writable
from invariances.training.autoencoder import fit_autoencoder, new_vae
from invariances.zoo.runs import AUTOENCODER


def train(config: Any, folders: Sequence[str] = ()) -> Path:
    """Trains a VAE as an `AutoencoderConfig` says; the file that is kept.

    Args:
        config: An `AutoencoderConfig`, or what has the same attributes.
        folders: Pictures, in place of `config.data.images`.

    Raises:
        UserError: The folder holds an autoencoder already, or pictures or network cannot be used.
        KeyboardInterrupt: Stopped by a signal, after saving.
    """
    data, code, eyes, run = config.data, config.code, config.eyes, config.run
    kept = Path(run.output) / AUTOENCODER
    if kept.exists() and not run.resume:
        raise UserError(
            f"folder {run.output!r} holds an autoencoder already; go on with --resume, or choose another --output"
        )
    check_writable(run.output)
    pictures = ImageFolder(folders or data.images, size=code.size, skip_broken=data.skip_broken)
    training, held_out = pictures.split(data.held_out, seed=data.split_seed)
    if data.views > 1 or data.crop == "random":
        training = training.cropped(data.views)
    networks = []
    if eyes.network and eyes.layers:
        networks = [Representation.many(eyes.network, eyes.layers, weights=eyes.weights, size=code.size)]
    sizes = {
        "latent_dim": code.latent_dim,
        "width": code.width,
        "max_width": code.max_width,
        "blocks": code.blocks,
    }
    fit_autoencoder(
        training.tensor(),
        held_out.tensor(),
        vae=new_vae(code.size, run.seed, **sizes),
        perceptual=networks,
        objective=config.objective,
        schedule=config.schedule,
        run=run,
    )
    return kept
