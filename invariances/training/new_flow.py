"""A flow before it learns: new, from a checkpoint of its own run, or from another flow; and where it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invariances.flow.config import FlowConfig
from invariances.flow.flow import ConditionalFlow
from invariances.interpreter import squeezed
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.machine import accelerator
from invariances.training.checkpoints import load_checkpoint
from invariances.training.config import FitConfig, RunConfig
from invariances.training.processes import local_rank
from invariances.training.stages import check_same
from invariances.zoo.runs import flow_of


def new_flow(
    config: FlowConfig, representation: Representation | None, code: nn.Module, seed: int
) -> ConditionalFlow:
    """A flow for this layer (None: told nothing) and this autoencoder, its weights a function of `seed` alone."""
    told: tuple[Any, ...] = ()
    if representation is not None:
        told = representation.shape, representation.probabilities
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConditionalFlow(config, latent_shape(code), *told)


def latent_shape(code: nn.Module) -> tuple[int, ...]:
    """(D,), or (C, H, W), of an autoencoder."""
    shape: Any = getattr(code, "latent_shape", None) or (code.latent_dim,)
    return tuple(int(size) for size in shape)


def device_of(run: RunConfig) -> torch.device:
    """Where all parts of a run live; of several processes, where this one's do."""
    found = accelerator(run.device)
    if found == torch.device("cuda"):
        return torch.device("cuda", local_rank())
    return found


def resume_from(checkpoint: Path, flow: ConditionalFlow, about: Mapping[str, Any]) -> None:
    """Fills a flow with the weights of a checkpoint, whose embedder is looked up before training goes on.

    Raises:
        UserError: The checkpoint is damaged, or of another run.
    """
    found = load_checkpoint(checkpoint)
    check_same(found["invariances"], about)
    flow.probabilities = bool(found["invariances"].get("probabilities", flow.probabilities))
    own = {key.removeprefix("learner."): value for key, value in found["state_dict"].items()}
    flow.load_state_dict(own)


def same_learning(config: FitConfig) -> dict[str, Any]:
    """What must not change when a run goes on: how it learns, with the pictures of a step over all processes."""
    told = {key: value for key, value in asdict(config.learning).items() if key != "steps"}
    told["batch_size"] *= config.run.devices * config.run.num_nodes
    return told


def started_from(config: FitConfig, representation: Representation, code: nn.Module) -> FitConfig:
    """The configuration with the architecture of the flow that it starts from, where it names one.

    Raises:
        UserError: There is no such flow, or it is for other latents or another layer.
    """
    if config.init is None:
        return config
    flow = flow_of(config.init, representation.layer)
    shapes = [
        ("latents", flow.latent_shape, latent_shape(code)),
        ("representations", flow.representation_shape, squeezed(representation.shape)),
    ]
    for what, theirs, ours in shapes:
        if tuple(theirs) != tuple(ours):
            raise UserError(
                f"the flow of --init {config.init!r} is for {what} of shape {tuple(theirs)}, and here they have "
                f"{tuple(ours)}; start from a flow of this layer and autoencoder, or leave out --init"
            )
    return replace(config, flow=flow.config)
