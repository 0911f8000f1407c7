"""The flow that is told nothing: what a layer tells of z̄ is measured against it.

It depends on the autoencoder, the pictures and how flows learn, on no network. So it is trained once, and kept beside
the cached features, where every evaluation, profile and comparison finds it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn
from torch.utils.data import ConcatDataset

from invariances.data.datasets import hash_of
from invariances.data.identity import identify
from invariances.features.cache import cache_root
from invariances.features.shards import writing
from invariances.flow.flow import ConditionalFlow
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import atomic
from invariances.system.weights import read_state_dict
from invariances.training.config import FitConfig
from invariances.training.data import FeatureData
from invariances.training.fit import Fitting
from invariances.training.new_flow import device_of

FOLDER = "unconditional"


def untold_flow(
    representation: Representation, code: nn.Module, data: FeatureData, config: FitConfig
) -> ConditionalFlow:
    """The flow of −log p(z̄): read where it is known, gone on with where it was interrupted, or trained.

    Args:
        representation: Of any network and layer.
        code: The autoencoder, frozen.
        data: Read; what it learns from need not be prepared.
        config: How those flows were trained that are told a representation.

    Raises:
        UserError: As of `fit`; the file that is kept is damaged.
    """
    run, learning = config.run, config.learning
    size = learning.batch_size * run.devices * run.num_nodes
    config = replace(
        config,
        init=None,
        learning=replace(learning, batch_size=size, learning_rate=learning.rate(run.devices * run.num_nodes)),
        run=replace(run, output=None, resume=True, wandb=None, devices=1, num_nodes=1, keep_checkpoints=0),
    )
    sets: list[Any] = [ConcatDataset(data.train_sets), data.held_out_set]
    pictures = [identify(each, run.progress) for each in sets]
    fitting = Fitting(representation, code, data, config, None, pictures, conditional=False)
    views = [data.config.crop, data.config.views, run.precision, learning.steps]
    path = cache_root(config.cache) / FOLDER / f"{hash_of([fitting.about, *views])[:32]}.safetensors"
    with _alone(path):
        if not path.is_file():
            own = copy(data)
            own.prepare([representation], code)
            fitting.data, fitting.last = own, path.with_suffix(".ckpt")
            print("one flow more is trained, which is told nothing", file=sys.stderr)
            save_flow(fitting.trained(), path)
            fitting.last.unlink(missing_ok=True)
    return load_flow(path).to(device_of(run)).eval()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process trains it, the others wait."""
    if path.is_file():
        yield
        return
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("another process trains the flow that is told nothing; waiting for it", file=sys.stderr)
        lock.acquire()
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def save_flow(flow: ConditionalFlow, path: Path) -> None:
    """Writes a flow alone."""
    from safetensors.torch import save_file

    state = {name: each.detach().cpu().contiguous() for name, each in flow.state_dict().items()}
    with atomic(path) as draft:
        save_file(state, draft, metadata={"flow": json.dumps(flow.spec())})


def load_flow(path: Path) -> ConditionalFlow:
    """The flow that `save_flow` wrote.

    Raises:
        UserError: The file is damaged.
    """
    state, metadata = read_state_dict(path)
    try:
        return ConditionalFlow.restored(json.loads(metadata["flow"]), state)
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{str(path)!r} is damaged; delete it and repeat the command") from None
