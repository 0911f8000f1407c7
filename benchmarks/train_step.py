"""How fast is training from cached features? Prints two ratios as JSON.

`of_bare_flow_step`: speed of `invariances fit` from the feature cache, relative to the bare flow step (forward,
backward, the same Adam) on a batch in memory. `of_everything_every_step`: relative to the published procedure, written
naively: the network to the layer at 224 px, a ResNet-101 encoder at 128 px and the flow with plain Adam at every step.

Paper-size flow (20 blocks, width 1024, D = 128), batch 16, CPU; about 6 GB of memory and 3 minutes on 2 cores.

    python benchmarks/train_step.py [--rounds 3] [--steps 4] [--network alexnet --layer conv5]
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from statistics import median

import torch
from lightning.pytorch import Callback
from torch import nn
from torchvision.models import resnet101

from invariances.autoencoder.posterior import DiagonalGaussian
from invariances.flow.config import FlowConfig
from invariances.representation.representation import Representation
from invariances.training.adam import AdamInBackward
from invariances.training.config import CacheConfig, LearningConfig, RunConfig
from invariances.training.data import FeatureData
from invariances.training.new_flow import new_flow
from invariances.training.stages import FlowStage
from invariances.training.trainer import make_trainer, quiet

BATCH, LATENT, PICTURES = 16, 128, 96


class Encoder(nn.Module):
    """A ResNet-101 that encodes 128-pixel pictures, as the published autoencoder's."""

    latent_dim, image_size = LATENT, 128

    def __init__(self):
        super().__init__()
        self.net = resnet101(num_classes=2 * LATENT)

    def encode(self, images):
        """The posterior."""
        return DiagonalGaussian.from_moments(self.net(images))

    def fingerprint(self):
        """Random weights, made anew for each benchmark."""
        return f"benchmark {time.time_ns()}"


class Noise(torch.utils.data.Dataset):
    """Random pictures."""

    def __len__(self):
        return PICTURES

    def __getitem__(self, index):
        image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"image": image, "label": -1, "index": index}


class Clock(Callback):
    """Seconds from one step's end to the next one's: data, step and all that is around it."""

    def __init__(self, warmup):
        self.warmup, self.ends = warmup, []

    def on_train_batch_end(self, *args):
        """Note the time."""
        self.ends.append(time.perf_counter())

    @property
    def seconds(self):
        """Of the steps after the warm-up."""
        return [b - a for a, b in zip(self.ends, self.ends[1:])][self.warmup :]


def loss_of(flow, latent, z):
    invariance, log_det = flow(latent, z)
    return 0.5 * invariance.square().sum(dim=1).mean() - log_det.mean()


def timed(step, steps):
    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def bare(flow, latent, z, steps):
    optimizer = AdamInBackward(flow.parameters(), lr=7.2e-5, betas=(0.5, 0.9), weight_decay=0)
    return timed(lambda: optimizer.step(lambda: loss_of(flow, latent, z).backward()), steps)


def everything(flow, representation, encoder, images, steps):
    optimizer = torch.optim.Adam(flow.parameters(), lr=7.2e-5, betas=(0.5, 0.9))

    def step():
        with torch.no_grad():
            z, latent = representation(images), encoder.encode(images).sample()
        optimizer.zero_grad()
        loss_of(flow, latent, z).backward()
        optimizer.step()

    return timed(step, steps)


def from_cache(flow, representation, data, steps):
    clock, layer = Clock(1), representation.layer
    learning = LearningConfig(batch_size=BATCH, steps=steps + 2)
    stage = FlowStage(flow, data.features(layer), data.held_out_features(layer), learning, learning.steps, 0)
    with quiet():
        run = RunConfig(output=None, device="cpu", log_every=10**6)
        make_trainer(run, learning.steps, [clock], []).fit(stage)
    return clock.seconds[:steps]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="the three are timed in turn, so often")
    parser.add_argument("--steps", type=int, default=4, help="steps timed per turn")
    parser.add_argument("--network", default="resnet101")
    parser.add_argument("--layer", default="layer4")
    options = parser.parse_args()
    torch.manual_seed(0)
    representation = Representation(options.network, options.layer, "random")
    encoder = Encoder().eval().requires_grad_(False)
    images = torch.stack([Noise()[index]["image"] for index in range(BATCH)])
    seconds = {"from_cache": [], "bare_flow_step": [], "everything_every_step": []}
    with tempfile.TemporaryDirectory() as folder:
        data = FeatureData(Noise(), cache=CacheConfig(folder=folder))
        data.prepare([representation], encoder)
        flow = new_flow(FlowConfig.published(), representation, encoder, 0)
        with torch.no_grad():
            z, latent = representation(images), encoder.encode(images).sample()
        for turn in range(options.rounds):
            seconds["from_cache"] += from_cache(flow, representation, data, options.steps)
            gc.collect()
            seconds["bare_flow_step"] += bare(flow, latent, z, options.steps)
            gc.collect()
            seconds["everything_every_step"] += everything(
                flow, representation, encoder, images, options.steps
            )
            gc.collect()
            print(
                f"turn {turn + 1} of {options.rounds}",
                {k: f"{median(v):.3f} s" for k, v in seconds.items()},
                file=sys.stderr,
            )
    middle = {name: median(values) for name, values in seconds.items()}
    result = {
        "of_bare_flow_step": middle["bare_flow_step"] / middle["from_cache"],
        "of_everything_every_step": middle["everything_every_step"] / middle["from_cache"],
        "seconds_per_step": middle,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
