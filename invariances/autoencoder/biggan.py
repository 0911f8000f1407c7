"""The BigGAN generator, at 128 and 256 px, in the form it has at inference: normalisations folded, channels_last."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.flow.layers import ActNorm
from invariances.system.errors import UserError
from invariances.system.weights import weights_hash

CODE = 20
EMBEDDING = 128
CLASSES = 1000
WIDTHS = {128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
_EPS = 1e-4


class UpsamplingConv(nn.ConvTranspose2d):
    """Nearest upsampling by 2, then a 3×3 convolution, as one transposed 4×4 convolution of stride 2.

    The same numbers with 4/9 of the multiplications: each input pixel meets the sums of the taps that would
    meet its four copies. `folded` makes this layer's weight out of the 3×3 convolution's.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    @staticmethod
    def folded(weight: Tensor) -> Tensor:
        """(O, I, 3, 3) of the convolution → (I, O, 4, 4): the kernel, flipped, spread over 2×2 copies."""
        flipped = weight.flip(2, 3).transpose(0, 1)
        spread = weight.new_zeros(*flipped.shape[:2], 4, 4)
        for row in (0, 1):
            for column in (0, 1):
                spread[:, :, row : row + 3, column : column + 3] += flipped
        return spread


class ConditionalNorm(nn.Module):
    """relu((x − mean) / std · (1 + G c) + B c): batch normalisation scaled and shifted by a condition c."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.scale = nn.Linear(condition, channels, bias=False)
        self.shift = nn.Linear(condition, channels, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise (N, C, H, W) for conditions (N, K), then ReLU."""
        scale = (1 + self.scale(condition)) * torch.rsqrt(self.running_var + _EPS)
        shift = self.shift(condition) - self.running_mean * scale
        return torch.addcmul(shift[..., None, None], x, scale[..., None, None]).relu_()


class GeneratorBlock(nn.Module):
    """Norm, ReLU, upsampling convolution, norm, ReLU, convolution; plus an upsampled 1×1 shortcut."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm0 = ConditionalNorm(inputs, condition)
        self.conv0 = UpsamplingConv(inputs, outputs)
        self.norm1 = ConditionalNorm(outputs, condition)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, I, H, W) → (N, O, 2H, 2W)."""
        h = self.conv0(self.norm0(x, condition))
        h = self.conv1(self.norm1(h, condition))
        # a 1×1 convolution and nearest upsampling commute: four times less work in this order
        out: Tensor = h + F.interpolate(self.shortcut(x), scale_factor=2.0)
        return out


class SelfAttention(nn.Module):
    """x + γ · O(softmax(Q Kᵀ) V), keys and values pooled 2×2. Source: Zhang et al. 2019 (SAGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.out = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same."""
        height, width = x.shape[2:]
        query = self.query(x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.key(x), 2).flatten(2).transpose(1, 2)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        out = self.out(attended.transpose(1, 2).reshape(len(x), -1, height, width))
        return torch.addcmul(x, self.gamma, out)


class BigGAN(nn.Module):
    """Images D(z, e) of a code z and a class embedding e.

    The code is cut: its first entries make a 4×4 map, 20 more condition each block, together with e. Also an
    autoencoder's decoder: `decode(latents)` takes z and e in one vector of `latent_dim` entries.
    Source: Brock, Donahue and Simonyan 2019; the architecture of the published 128 and 256 px checkpoints.

    Args:
        image_size: 128 or 256.
        code_dim: entries of z; None for the published 120 (128 px) or 140 (256 px).
        base: channels of the last block.
        act_norm: ActNorm in place of batch normalisation before the last convolution.
    """

    def __init__(
        self, image_size: int = 128, code_dim: int | None = None, base: int = 96, act_norm: bool = False
    ) -> None:
        super().__init__()
        widths = [base * factor for factor in WIDTHS[image_size]]
        count = len(widths) - 1
        self.image_size = image_size
        self.code_dim = CODE * (count + 1) if code_dim is None else code_dim
        self.latent_dim = self.code_dim + EMBEDDING
        self._splits = [self.code_dim - CODE * count, *[CODE] * count]
        self.class_embedding = nn.Linear(CLASSES, EMBEDDING, bias=False)
        self.first = nn.Linear(self._splits[0], 16 * widths[0])
        self.blocks = nn.ModuleList(GeneratorBlock(i, o, CODE + EMBEDDING) for i, o in pairwise(widths))
        self.attention = SelfAttention(widths[-2])
        self.norm = ActNorm(base) if act_norm else nn.BatchNorm2d(base, eps=_EPS)
        self.colour = nn.Conv2d(base, 3, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def decode(self, z: Tensor, class_index: Tensor | int | None = None) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1].

        Args:
            z: (N, code_dim); without a class, latents (N, latent_dim): z, then the class embedding.
            class_index: ImageNet class, one for all or (N,).

        Raises:
            UserError: a shape or class is impossible.
        """
        z = _flat(z)
        if class_index is None:
            if z.shape[1] != self.latent_dim:
                raise UserError(
                    f"latents have {z.shape[1]} entries, but this generator's have {self.latent_dim} ({self.code_dim} "
                    f"of z, {EMBEDDING} of the class embedding); give these, or z and a class."
                )
            return self.decode_embedding(z[:, : self.code_dim], z[:, self.code_dim :])
        index = torch.as_tensor(class_index, device=z.device).reshape(-1).expand(len(z))
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < CLASSES:
            raise UserError(f"class {class_index} is not in 0 … {CLASSES - 1}; give an ImageNet class.")
        return self.decode_embedding(z, self.embed(index))

    def embed(self, class_index: Tensor) -> Tensor:
        """Class embeddings (N, 128) of class indices (N,)."""
        return self.class_embedding.weight.T[class_index]

    def decode_embedding(self, z: Tensor, class_embedding: Tensor) -> Tensor:
        """Images (N, 3, S, S) in [-1, 1] of codes (N, code_dim) and class embeddings (N, 128)."""
        z, embedding = _flat(z), _flat(class_embedding)
        if z.shape[1] != self.code_dim or embedding.shape[1] != EMBEDDING:
            raise UserError(
                f"z and class embedding have {z.shape[1]} and {embedding.shape[1]} entries, but this generator "
                f"takes {self.code_dim} and {EMBEDDING}."
            )
        first, *codes = torch.split(z, self._splits, dim=1)
        x = self.first(first).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)
        last = len(codes) - 1
        for i, (code, block) in enumerate(zip(codes, self.blocks, strict=True)):
            if i == last:
                x = self.attention(x)
            x = block(x, torch.cat([code, embedding.expand(len(z), -1)], dim=1))
        images: Tensor = self.colour(self.norm(x).relu_()).tanh()
        return images

    def fingerprint(self) -> str:
        """A hash of architecture and weights."""
        return weights_hash(repr(self), self.state_dict())


def _flat(x: Tensor) -> Tensor:
    """(N, D) of (N, D) or the published (N, D, 1, 1)."""
    return x.flatten(1)
