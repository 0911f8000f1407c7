"""Autoencoders of latent diffusion models from the Hugging Face hub, or from a folder, by `diffusers` (extra `hub`)."""

from __future__ import annotations

import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.autoencoder.tiny import NOISE
from invariances.system.errors import UserError
from invariances.system.extras import installed
from invariances.system.files import offline
from invariances.system.weights import weights_hash

PREFIX = "hf_hub:"
_CONFIG = "config.json"
_NAME = re.compile(r"(?:hf_hub:)?(?P<place>.+?)(?:@(?P<size>\d+))?")
_KINDS = "AutoencoderKL or AutoencoderTiny"


def is_diffusers(name: str) -> bool:
    """Whether this names a model of the hub, or a folder as diffusers writes them (`@SIZE` may follow)."""
    if name.startswith(PREFIX):
        return True
    found = _NAME.fullmatch(name)
    return found is not None and (Path(found["place"]) / _CONFIG).is_file()


class HubAutoencoder(nn.Module):
    """A model of diffusers that codes pictures by one map of moments (AutoencoderKL), or by a map (AutoencoderTiny).

    The posterior is the model's own; that of a map alone has the deviation 0.05.

    Args:
        model: Of diffusers; pictures in [-1, 1] to latents and back.
        size: Side of the pictures in pixels.

    Attributes:
        published_name: What loads it again; runs keep this name, not the weights.

    Raises:
        UserError: The model codes no pictures of this size, or not by maps.
    """

    published_name: str

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.image_size = model, size
        config: Any = model.config
        self.architecture = {name: str(value) for name, value in config.items() if not name.startswith("_")}
        try:
            with torch.no_grad():
                mean = self.encode(torch.zeros(1, 3, size, size)).mean
                self.latent_shape = tuple(mean.shape[1:])
                decoded = self.decode(mean)
        except (RuntimeError, AttributeError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{type(model).__name__} does not code pictures of {size} pixels ({str(error).splitlines()[0]}); "
                f"give an {_KINDS}, and a size that it was made for, as in NAME@256"
            ) from None
        if len(self.latent_shape) != 3 or decoded.shape != (1, 3, size, size):
            raise UserError(
                f"{type(model).__name__} makes latents {self.latent_shape} and pictures {tuple(decoded.shape)} of "
                f"pictures of {size} pixels; give an {_KINDS}, and a size that is a multiple of 8, as in NAME@256"
            )

    @property
    def latent_dim(self) -> int:
        """Numbers of a latent."""
        return math.prod(self.latent_shape)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior of pictures (N, 3, S, S) in [-1, 1]; its moments are maps."""
        found = self.model.encode(images)  # type: ignore[operator]
        if hasattr(found, "latent_dist"):
            return DiagonalGaussian(found.latent_dist.mean, found.latent_dist.logvar)
        return DiagonalGaussian(found.latents, torch.full_like(found.latents, 2 * math.log(NOISE)))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, S, S) in [-1, 1] of latents (N, C, H, W)."""
        pictures: Tensor = self.model.decode(latents).sample  # type: ignore[operator]
        return pictures.clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction D(mode of E(x)), in [-1, 1]."""
        return self.decode(self.encode(images).mode())

    def fingerprint(self) -> str:
        """A hash of architecture and weights."""
        return weights_hash(repr(sorted(self.architecture.items())), self.state_dict())


def load_hub(name: str) -> HubAutoencoder:
    """The autoencoder of a name: frozen, float32, in eval mode.

    Args:
        name: `hf_hub:OWNER/MODEL`, `hf_hub:OWNER/MODEL/SUBFOLDER` (as in `…/stable-diffusion/vae`), or a folder as
            diffusers' `save_pretrained` writes it; `@SIZE` after it says the side of the pictures, else the model's
            `sample_size` does.

    Raises:
        UserError: diffusers is missing, or there is no such model, or it is of another kind.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    place, size = found["place"], found["size"]
    if not installed("diffusers"):
        raise UserError(f"{name!r} needs the package diffusers; pip install 'invariances[hub]'")
    diffusers: Any = import_module("diffusers")
    where: dict[str, Any] = {"local_files_only": offline()}
    if name.startswith(PREFIX):
        owner, model, inner = [*place.split("/", 2), "", ""][:3]
        place, where["subfolder"] = f"{owner}/{model}", inner or None
    try:
        kind = diffusers.AutoencoderKL.load_config(place, **where).get("_class_name")
        known = {each.__name__: each for each in (diffusers.AutoencoderKL, diffusers.AutoencoderTiny)}
        model = known[kind].from_pretrained(place, torch_dtype=torch.float32, **where)
    except KeyError:
        raise UserError(f"{name!r} holds {kind or 'a model of no name'}; give an {_KINDS}") from None
    except (OSError, ValueError, RuntimeError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"no autoencoder could be loaded as {name!r}: {said}; names look like "
            "hf_hub:stabilityai/sd-vae-ft-mse@256"
        ) from None
    side = int(size or model.config.get("sample_size") or 256)
    autoencoder = HubAutoencoder(model.eval().requires_grad_(False), side).eval()
    autoencoder.published_name = f"{name}@{side}" if size is None else name
    if not name.startswith(PREFIX):
        autoencoder.published_name = f"{Path(place).resolve()}@{side}"
    return autoencoder
