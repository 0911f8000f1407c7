"""A generator's own pictures: latents and classes drawn from a seed, pictures drawn as they are asked for.

    z       normal, of `code_dim` entries (120 for BigGAN at 128 px, 140 at 256 px); entries beyond `truncation`, where
            it is above 0, are drawn again
    class   uniform over the generator's classes

What the texture-bias flows were trained on. The published train set draws anew at every look; ours is a function of
(seed, index) alone, so that what is computed once can be kept, and as long as one likes. The test set has seed 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from invariances.data.splitting import is_whole
from invariances.system.errors import UserError
from invariances.system.seeds import seeded

CLASSES = 1000
_AT_ONCE = 16


class Generator(Protocol):
    """What draws pictures: images (N, 3, H, W) in [-1, 1] of codes (N, code_dim) and class indices (N,)."""

    code_dim: int

    def decode(self, z: Tensor, class_index: Tensor) -> Tensor:
        """Images of codes and classes."""


def truncated_normal(size: int, truncation: float, generator: torch.Generator) -> Tensor:
    """`size` normal numbers; those beyond ± `truncation`, where it is above 0, are drawn again."""
    z = torch.randn(size, generator=generator)
    while truncation > 0 and (beyond := z.abs() > truncation).any():
        z[beyond] = torch.randn(int(beyond.sum()), generator=generator)
    return z


class Dequantiser(Protocol):
    """What spreads the points that class embeddings are into a density (`invariances.autoencoder.dequantiser`)."""

    def encode(self, embedding: Tensor) -> Any:
        """The posterior of embeddings (N, E)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Embeddings (N, E) of latents."""


class TrainSamples(Dataset[dict[str, Any]]):
    """A generator's pictures as items `{image, label, name, path, index, z}`, and `latent` where it embeds classes.

    `latent` is what a flow learns, (code_dim + E,): z, then the class embedding, dequantised where there is something
    to do it with. The picture is drawn of the class itself.

    Args:
        generator: A module with `code_dim` and `decode(z, class_index)`, such as BigGAN.
        length: How many.
        truncation: Largest magnitude of z's entries; 0 for none.
        n_classes: Classes to draw from.
        classes: Their names, or numbers if left out.
        seed: Another seed, other pictures.
        dequantiser: Of class embeddings.

    Raises:
        UserError: An option is impossible.
    """

    name: ClassVar[str] = "TrainSamples"
    title: ClassVar[str] = "a generator's own pictures, to train on"

    def __init__(
        self,
        generator: Generator,
        length: int = 100_000,
        truncation: float = 0.0,
        n_classes: int = CLASSES,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        dequantiser: Dequantiser | None = None,
    ) -> None:
        if not is_whole(length) or length < 1 or not is_whole(n_classes) or n_classes < 1:
            raise UserError(f"length ({length}) and n_classes ({n_classes}) must be at least 1")
        if not 0 <= truncation < float("inf") or 0 < truncation < 0.01:
            raise UserError(f"truncation is {truncation}; give 0 for none, or a bound of at least 0.01")
        self.generator, self.length, self.seed = generator, length, seed
        self.dequantiser = dequantiser
        self._made: str | None = None
        self.truncation, self.n_classes = float(truncation), n_classes
        self.classes = list(classes) if classes is not None else [str(k) for k in range(n_classes)]
        if len(self.classes) != n_classes:
            raise UserError(
                f"{len(self.classes)} names were given for {n_classes} classes; give one for each"
            )

    def __len__(self) -> int:
        return self.length

    def latents(self, index: int) -> tuple[Tensor, int]:
        """The code z (code_dim,) and the class of a picture."""
        index = range(self.length)[index]
        draws = seeded("samples", self.seed, index)
        label = int(torch.randint(self.n_classes, (), generator=draws))
        return truncated_normal(self.generator.code_dim, self.truncation, draws), label

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The items at `indices`, drawn some at a time."""
        found = []
        for start in range(0, len(indices), _AT_ONCE):
            part = [range(self.length)[index] for index in indices[start : start + _AT_ONCE]]
            drawn = [self.latents(index) for index in part]
            z, labels = torch.stack([each for each, _ in drawn]), torch.tensor([label for _, label in drawn])
            latents = self._latents(part, z, labels)
            images = self._draw(z, labels)
            for k, (index, image, code, label) in enumerate(
                zip(part, images, z, labels.tolist(), strict=True)
            ):
                more = {} if latents is None else {"latent": latents[k]}
                found.append(
                    {
                        "image": image,
                        "label": label,
                        "name": self.classes[label],
                        "path": "",
                        "index": index,
                        "z": code,
                        **more,
                    }
                )
        return found

    @torch.inference_mode()
    def _latents(self, indices: Sequence[int], z: Tensor, labels: Tensor) -> Tensor | None:
        """Z and class embeddings, (N, code_dim + E)."""
        embed = getattr(self.generator, "embed", None)
        if embed is None:
            return None
        device = self._device()
        embedding: Tensor = embed(labels.to(device)).float()
        if self.dequantiser is not None:
            if isinstance(self.dequantiser, nn.Module):
                self.dequantiser.to(device)
            posterior = self.dequantiser.encode(embedding)
            noise = [
                torch.randn(posterior.mean.shape[1:], generator=seeded("dequantised", self.seed, index))
                for index in indices
            ]
            spread = (0.5 * posterior.logvar).exp() * torch.stack(noise).to(device)
            embedding = self.dequantiser.decode(posterior.mean + spread)
        return torch.cat([z, embedding.cpu()], dim=1).clone()

    def _device(self) -> torch.device:
        if isinstance(self.generator, nn.Module):
            return next((each.device for each in self.generator.parameters()), torch.device("cpu"))
        return torch.device("cpu")

    @torch.inference_mode()
    def _draw(self, z: Tensor, labels: Tensor) -> Tensor:
        device = self._device()
        return self.generator.decode(z.to(device), labels.to(device)).float().cpu().clamp(-1, 1).clone()

    def content(self, indices: Iterable[int]) -> Iterator[bytes]:
        """What each picture is made from."""
        for index in indices:
            yield f"{self._world()} {index}".encode()

    def fingerprint(self) -> str:
        """Hash of what decides the pictures."""
        return f"{self._world()} {self.length}"

    def _world(self) -> str:
        if self._made is None:
            own = getattr(self.generator, "fingerprint", None)
            self._made = str(own()) if callable(own) else _weights_of(self.generator)
            if self.dequantiser is not None:
                self._made += f" {_weights_of(self.dequantiser)}"
        return f"samples {self._made} {self.seed} {self.truncation} {self.n_classes}"


def _weights_of(generator: Generator | Dequantiser) -> str:
    """A hash of a generator's weights, where it has no fingerprint of its own."""
    digest = hashlib.sha256(type(generator).__qualname__.encode())
    state = generator.state_dict() if isinstance(generator, nn.Module) else {}
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class TestSamples(TrainSamples):
    """Other pictures of a generator, always the same: those of seed 1. See `TrainSamples`."""

    __test__ = False
    name: ClassVar[str] = "TestSamples"
    title: ClassVar[str] = "a generator's own pictures, for testing"

    def __init__(
        self,
        generator: Generator,
        length: int = 1000,
        truncation: float = 0.0,
        n_classes: int = CLASSES,
        classes: Sequence[str] | None = None,
        dequantiser: Dequantiser | None = None,
    ) -> None:
        super().__init__(generator, length, truncation, n_classes, classes, 1, dequantiser)
