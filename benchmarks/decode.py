"""How fast BigAE decodes on this machine: folded, channels_last, against the published form; share of the GEMM rate.

    python benchmarks/decode.py

The published form normalises each weight anew at every call, upsamples before each 3×3 convolution and keeps tensors
contiguous. Both forms give the same pictures (checked). Everything alternates in one run, and medians are compared,
so that other load on the machine hits all alike. Weights are random: speed does not depend on them.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from invariances import zoo
from invariances.autoencoder.biggan import UpsamplingConv
from invariances.zoo.published import fold_spectral

SIDE = 2048


class Unfolded(nn.Module):
    """A layer in its published form: W / σ at every call; upsampling before the 3×3 convolution."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.upsampling = layer, isinstance(layer, UpsamplingConv)
        weight = layer.weight.detach()
        if self.upsampling:  # any 3×3 kernel; then the layer gets the folded form of the same
            weight = torch.randn(weight.shape[1], weight.shape[0], 3, 3) / weight.shape[0] ** 0.5 / 3
        self.weight = weight.contiguous()
        self.u = F.normalize(torch.randn(len(weight)), dim=0)
        folded = fold_spectral(self.weight, self.u)
        layer.weight.data = (UpsamplingConv.folded(folded) if self.upsampling else folded).contiguous(
            memory_format=torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        )

    def normalised(self):
        """W / σ by one power iteration."""
        matrix = self.weight.flatten(1)
        v = matrix.T @ self.u
        v = v / (v.norm() + 1e-4)
        u = matrix @ v
        u = u / (u.norm() + 1e-4)
        return self.weight / (u @ (matrix @ v))

    def forward(self, x):
        """As the published layer computes."""
        weight = self.normalised()
        if weight.dim() == 2:
            return F.linear(x, weight, self.layer.bias)
        if self.upsampling:
            x = F.interpolate(x, scale_factor=2.0)
        return F.conv2d(x.contiguous(), weight, self.layer.bias, padding=weight.shape[-1] // 2)


class UnfoldedBlock(nn.Module):
    """A generator's block in the published order: the shortcut is upsampled before its convolution."""

    def __init__(self, block, layers):
        super().__init__()
        self.block, self.layers = block, layers

    def forward(self, x, condition):
        """As the published block computes."""
        layer = self.layers
        h = self.norm(self.block.norm0, layer["norm0.scale"], layer["norm0.shift"], x, condition)
        h = layer["conv0"](h)
        h = self.norm(self.block.norm1, layer["norm1.scale"], layer["norm1.shift"], h, condition)
        return layer["conv1"](h) + layer["shortcut"](F.interpolate(x, scale_factor=2.0))

    @staticmethod
    def norm(norm, scale, shift, x, condition):
        """Batch normalisation, scale and shift by the condition, ReLU."""
        h = F.batch_norm(x, norm.running_mean, norm.running_var, eps=1e-4)
        return F.relu((1 + scale(condition))[..., None, None] * h + shift(condition)[..., None, None])


def published_form(autoencoder):
    """A function latents → pictures; sets the folded weights of `autoencoder` to match."""
    generator = autoencoder.generator
    first, colour = Unfolded(generator.first), Unfolded(generator.colour)
    attention = {
        name: Unfolded(getattr(generator.attention, name)) for name in ("query", "key", "value", "out")
    }
    blocks = []
    for block in generator.blocks:
        names = ("conv0", "conv1", "shortcut", "norm0.scale", "norm0.shift", "norm1.scale", "norm1.shift")
        blocks.append(UnfoldedBlock(block, {name: Unfolded(block.get_submodule(name)) for name in names}))

    def attend(x):
        n, _, height, width = x.shape
        query = attention["query"](x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(attention["key"](x), 2).flatten(2)
        value = F.max_pool2d(attention["value"](x), 2).flatten(2)
        attended = value @ torch.softmax(query @ key, dim=-1).transpose(1, 2)
        out = attention["out"](attended.reshape(n, -1, height, width))
        return generator.attention.gamma * out + x

    def decode(latents):
        embedding = generator.class_embedding(autoencoder.classes(latents).softmax(dim=1))
        first_code, *codes = torch.split(latents, [latents.shape[1] - 100, *[20] * 5], dim=1)
        x = first(first_code).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).contiguous()
        for i, (code, block) in enumerate(zip(codes, blocks)):
            x = attend(x) if i == 4 else x
            x = block(x, torch.cat([code, embedding], dim=1))
        return colour(generator.norm(x).relu()).tanh()

    return decode


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    words = parser.parse_args()
    torch.manual_seed(0)
    autoencoder = zoo.build("bigae_animalfaces")
    published = published_form(autoencoder)
    latents = torch.randn(words.batch, autoencoder.latent_dim)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    runs = {
        "folded": lambda: autoencoder.decode(latents),
        "published": lambda: published(latents),
        "gemm": lambda: a @ b,
    }
    difference = (runs["folded"]() - runs["published"]()).abs().max().item()
    assert difference < 1e-3, difference
    with FlopCounterMode(display=False) as counter:
        runs["folded"]()
    seconds = {name: [] for name in runs}
    for _ in range(words.rounds):
        for name, run in runs.items():
            for _ in range(5 if name == "gemm" else 1):
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rate = counter.get_total_flops() / median["folded"]
    gemm = 2 * SIDE**3 / median["gemm"]
    print(
        json.dumps(
            {
                "batch": words.batch,
                "threads": torch.get_num_threads(),
                "seconds folded": round(median["folded"], 3),
                "seconds published": round(median["published"], 3),
                "speed-up (at least 1.6)": round(median["published"] / median["folded"], 2),
                "GFLOP per decoding": round(counter.get_total_flops() / 1e9, 1),
                "GFLOP/s": round(rate / 1e9, 1),
                "GFLOP/s of GEMM": round(gemm / 1e9, 1),
                "share of GEMM (at least 0.7)": round(rate / gemm, 2),
                "largest difference of pixels": difference,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
