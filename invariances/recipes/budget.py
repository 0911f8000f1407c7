"""How many training steps fit into the time that is given, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Subset

from invariances.data.shapes import Shapes
from invariances.evaluation.looking import Sampling, look
from invariances.flow.config import FlowConfig
from invariances.flow.embedders.regression import RegressionEmbedder
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layered import LayeredFlow
from invariances.interpreter import Interpreter
from invariances.representation.representation import Representation
from invariances.system.machine import accelerator, emulates_bfloat16
from invariances.training.config import LearningConfig, Precision
from invariances.training.muon import MuonAdam

FEWEST, MOST = 60, 8000
_AROUND = 1.3
"""What held-out losses, embeddings, grids and the start of processes add to the steps alone."""
_TIMED = 2
_LOOKED, _PASSED = 8, 64
FURTHER = 2.0
"""What readers, remaining variance and the page take beside the look alone."""


@dataclass(frozen=True)
class Work:
    """A flow to train.

    Args:
        flow: Its architecture.
        latent_shape: Of the latents.
        representation_shape: Of what it is told.
    """

    flow: FlowConfig
    latent_shape: tuple[int, ...]
    representation_shape: tuple[int, ...]


def affordable_steps(works: Sequence[Work], learning: LearningConfig, seconds: float, processes: int) -> int:
    """Steps of each flow, the same for all, that `processes` at a time finish in so many seconds.

    Args:
        works: All flows.
        learning: How they learn; its `steps` are not asked.
        seconds: For all of them.
        processes: How many train at once; they share this process's threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // processes))
    try:
        each = [seconds_per_step(work, learning) for work in works]
    finally:
        torch.set_num_threads(threads)
    busiest = max(sum(each) / processes, max(each))
    return _affordable(seconds, busiest)


def affordable_map_steps(flow: LayeredFlow, batch_size: int, seconds: float) -> int:
    """Steps of a flow over maps that finish in so many seconds; the flow, a new one, is tried and of no more use."""
    share = max(1, batch_size // len(flow.layers))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(share * len(flow.layers), *flow.latent_shape, generator=generator)
    places = torch.arange(len(latents)).tensor_split(len(flow.layers))
    told = {
        layer: (own, torch.rand(len(own), *shape, generator=generator))
        for own, (layer, shape) in zip(places, flow.layers.items())
    }
    flow.train()
    return _affordable(seconds, _timed(flow, lambda: flow.loss(latents, told, generator), LearningConfig()))


def _affordable(seconds: float, one: float) -> int:
    """Steps that fit, where one takes `one` seconds."""
    return max(FEWEST, min(MOST, int(seconds / (_AROUND * one))))


def halved(most: int, affordable: float) -> int:
    """Most, a half, a quarter or an eighth of it, whichever is affordable: few sizes, so that caches serve again."""
    return next((most // parts for parts in (1, 2, 4) if most // parts <= affordable), most // 8)


@torch.no_grad()
def seconds_per_picture(networks: Iterable[Representation], code: torch.nn.Module) -> float:
    """Of drawing a picture, encoding it and passing it through all networks."""
    home, encode = accelerator("auto"), cast(Any, code.to(accelerator("auto"))).encode
    taps = [each.to(home) for each in networks]

    def once() -> None:
        images = Shapes(_PASSED).images(range(_PASSED)).to(home)
        encode(images)
        for each in taps:
            each(images)

    return _warm(once) / _PASSED


def seconds_to_look(interpreter: Interpreter, pictures: Any, n: int, count: int) -> float:
    """Seconds for all numbers of `count` pictures with n samples each, from a look at a few of these pictures."""
    few = Subset(pictures, range(min(_LOOKED, len(pictures))))
    took = _warm(lambda: look(interpreter, few, [], Sampling(n)))
    return FURTHER * took * count / len(few)


def _warm(once: Callable[[], object]) -> float:
    """Seconds of a second time."""
    once()
    began = time.monotonic()
    once()
    return time.monotonic() - began


def seconds_per_step(work: Work, learning: LearningConfig) -> float:
    """A step's time, both stages in their shares, on made features."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow = ConditionalFlow(work.flow, work.latent_shape, work.representation_shape)
    size = learning.batch_size
    latent = torch.randn(size, *work.latent_shape, generator=generator)
    told = torch.randn(size, *work.representation_shape, generator=generator)
    embedder, share = flow.embedder, 0.0
    first = 0.0
    if isinstance(embedder, RegressionEmbedder):
        share = learning.regression
        first = _timed(embedder, lambda: -embedder.log_prob(latent, embedder(told)), learning)
        embedder.requires_grad_(False)
        embedding = flow.eval().embed(told).detach()
        flow.train()
        return share * first + (1 - share) * _timed(
            flow, lambda: flow.loss(latent, generator, embedding=embedding), learning
        )
    return _timed(flow, lambda: flow.loss(latent, generator, representation=told), learning)


def _timed(module: torch.nn.Module, losses: Callable[[], Tensor], learning: LearningConfig) -> float:
    parameters = [each for each in module.parameters() if each.requires_grad]
    matrices = [each for each in parameters if each.dim() > 1] if learning.optimizer == "muon" else []
    optimizer = MuonAdam(parameters, matrices, lr=1e-9, fused=True)
    began = 0.0
    for step in range(_TIMED + 1):
        if step == 1:
            began = time.monotonic()  # the first one warms up
        optimizer.zero_grad()
        torch.autograd.backward(losses().mean())
        optimizer.step()
    return (time.monotonic() - began) / _TIMED


def precision() -> Precision:
    """Of bfloat16 where the device computes in it."""
    device = accelerator("auto")
    return "32-true" if device.type == "mps" or emulates_bfloat16(device) else "bf16-mixed"
