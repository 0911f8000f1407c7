"""BigAE: a ResNet-101 encoder and a BigGAN-128 decoder around 128 numbers; the published autoencoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from invariances.autoencoder.biggan import CLASSES, BigGAN
from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.flow.layers import ActNorm, mlp
from invariances.system.errors import UserError
from invariances.system.weights import weights_hash

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm2d, "act": ActNorm}
_BLOCKS = {"resnet101": (3, 4, 23, 3), "tiny": (1, 1, 1, 1)}


class Encoder(nn.Module):
    """(N, 3, 128, 128) in [-1, 1] → moments (N, 2D): ImageNet's normalisation, ResNet, pooling, 1×1 convolution."""

    mean: Tensor
    std: Tensor

    def __init__(self, outputs: int, norm: str, depth: str) -> None:
        super().__init__()
        self.resnet = ResNet(Bottleneck, list(_BLOCKS[depth]), num_classes=outputs, norm_layer=_NORMS[norm])
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Moments. The published network normalises its input twice, and learnt so."""
        x = images
        for _ in range(2):
            x = ((x + 1) / 2 - self.mean) / self.std
        moments: Tensor = self.resnet(x.contiguous(memory_format=torch.channels_last))
        return moments


class BigAE(nn.Module):
    """z̄ = E(x) and x ≈ D(z̄), for images of 128 px.

    The latent is both BigGAN's code (28 entries for the first map, 20 for each block) and, by an MLP with
    softmax, a soft choice among its 1000 class embeddings. Source: Rombach et al. 2020, appendix.

    Args:
        latent_dim: D.
        norm: "act" (ActNorm, checkpoint of animals) or "batch" (animal faces), in the encoder and before the
            decoder's last convolution.
        depth: "resnet101", or "tiny" for tests.
        base: channels of the decoder's last block.
        class_width: hidden width of the class MLP.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        norm: str = "batch",
        depth: str = "resnet101",
        base: int = 96,
        class_width: int = 2000,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_size = 128
        self.encoder = Encoder(2 * latent_dim, norm, depth)
        self.classes = mlp(latent_dim, class_width, 2, CLASSES)
        self.generator = BigGAN(128, latent_dim, base, act_norm=norm == "act")
        self.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """The posterior q(z̄ | x) of images (N, 3, 128, 128) in [-1, 1]."""
        if images.dim() != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise UserError(
                f"images have shape {tuple(images.shape)}, but BigAE takes "
                f"(N, 3, {self.image_size}, {self.image_size}); load them with that size"
            )
        return DiagonalGaussian.from_moments(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, 3, 128, 128) in [-1, 1] of latents (N, D) or (N, D, 1, 1)."""
        z = latents.flatten(1)
        if z.shape[1] != self.latent_dim:
            raise UserError(
                f"latents have {z.shape[1]} entries, but this autoencoder's have {self.latent_dim}."
            )
        soft_class = self.classes(z).softmax(dim=1)
        return self.generator.decode_embedding(z, self.generator.class_embedding(soft_class))

    def fingerprint(self) -> str:
        """A hash of architecture and weights."""
        return weights_hash(repr(self), self.state_dict())
