"""`fit` and `fit_layers`: from a network, a layer, an autoencoder and pictures to an interpreter, in one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from invariances.flow.embedders.embedder import EmbedderKind
from invariances.flow.flow import ConditionalFlow, Transform
from invariances.interpreter import CONFIG, LAST, Interpreter, autoencoder_of
from invariances.representation.representation import Representation
from invariances.system.cost import flops
from invariances.system.files import check_writable
from invariances.training.auxiliary import auxiliary_targets
from invariances.training.callbacks import parts, quiet
from invariances.training.data import CacheOptions, FeatureData, Images
from invariances.training.flow import FlowTraining, Keep, Optimizer, new_flow
from invariances.training.processes import in_processes
from invariances.training.run_folder import Stopped, write_config
from invariances.training.schedule import RateSchedule

T = TypeVar("T")


def fit(
    network: str | nn.Module | Representation,
    layer: str,
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    **options: Any,
) -> Interpreter:
    """Trains a flow for one layer; see `fit_layers` for the options.

    Args:
        network: Name of a torchvision, timm, published or shipped network, a module, or a `Representation`,
            which is then cut anew.
        layer: Name of the layer, as `Representation.layers` lists them.
        autoencoder: A safetensors file, the name of a published or shipped one, or a module.
        images: A folder of pictures, several, or a data set.
        options: As of `fit_layers`.
    """
    return fit_layers(network, [layer], autoencoder, images, **options)[layer]


def fit_layers(
    network: str | nn.Module | Representation,
    layers: Sequence[str],
    autoencoder: str | os.PathLike[str] | nn.Module,
    images: Images,
    *,
    weights: str | os.PathLike[str] | None = None,
    held_out: float | Images = 0.1,
    output: str | os.PathLike[str] | None = "runs/{network}_{layer}",
    resume: bool = False,
    steps: int | Mapping[str, int] = 20_000,
    batch_size: int | Mapping[str, int] = 16,
    learning_rate: float | None = None,
    schedule: RateSchedule = "constant",
    warmup: int = 0,
    ema: float = 0.0,
    keep: Keep = "best",
    optimizer: Optimizer | Mapping[str, Optimizer] = "adam",
    weight_decay: float = 0.0,
    whiten: bool = True,
    regression: float | Mapping[str, float] = 0.35,
    auxiliary: Sequence[str] | Mapping[str, Sequence[str]] = (),
    blocks: int = 20,
    width: int = 1024,
    depth: int = 2,
    embedder: EmbedderKind | Mapping[str, EmbedderKind] = "published",
    embedder_width: int = 64,
    embedder_statistics: bool = False,
    transform: Transform = "coupling",
    crop: Literal["center", "random"] = "center",
    views: int = 1,
    skip_broken: bool = False,
    cache: CacheOptions | None = None,
    checkpoint_every: int = 1000,
    samples_every: int = 1000,
    log_every: int = 50,
    accelerator: str = "auto",
    seed: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> dict[str, Interpreter]:
    """Trains one flow per layer, after one pass of all pictures through network and autoencoder.

    Args:
        network: As of `fit`.
        layers: Names of the layers.
        autoencoder: As of `fit`.
        images: As of `fit`.
        weights: Weights file for a named network.
        held_out: Share of the pictures kept for evaluation, or pictures of their own.
        output: Folder of each run, with `{network}` and `{layer}` filled in and a number added where that
            folder is taken; None writes nothing.
        resume: Go on with the last checkpoint in `output`.
        steps: Training steps per layer, or of each layer by its name.
        batch_size: Pictures per step, likewise.
        learning_rate: As of `FlowTraining`, like `schedule`, `warmup`, `ema`, `keep`, `optimizer`,
            `weight_decay`, `whiten`, `regression`.
        schedule: "constant" or "cosine".
        warmup: Steps of linear rise.
        ema: Decay of the weights' moving average; 0 for none.
        keep: The weights of the lowest held-out loss ("best"), or of the last step ("last").
        optimizer: "adam", "muon" or "muon_embedder", or of each layer by its name.
        weight_decay: Decoupled, as of AdamW.
        whiten: Start the embedder from the features.
        regression: Share of the steps in which a residual embedder learns, or of each layer's by its name.
        auxiliary: Shallower layers of maps: a residual embedder learns to guess the mean and standard deviation of
            their channels too, and so finds what a layer shows faintly; or those of each layer by its name.
        blocks: As of `ConditionalFlow`, like `width`, `depth`, `embedder` and `embedder_width`.
        width: Of hidden layers.
        depth: Hidden layers after the first.
        embedder: "published", or "residual", which finds what a layer shows faintly, and in fewer steps; or of each
            layer by its name.
        embedder_width: Of a residual embedder.
        embedder_statistics: Whether a residual embedder of maps reads mean and deviation of their channels too: it
            finds fainter textures, given thousands of pictures, and learns hundreds by heart.
        transform: "coupling" as published, or "continuous", learned by flow matching: it finds what a layer shows
            faintly from fewer pictures, and takes longer to sample. 4 blocks serve it well.
        crop: "center", or "random" with `views` crops per picture.
        views: Crops cached per picture.
        skip_broken: Leave broken pictures out instead of stopping.
        cache: Where features are kept and how much room they may take.
        checkpoint_every: Steps between checkpoints.
        samples_every: Steps between sample grids.
        log_every: Steps between rows of metrics.
        accelerator: "cpu", "gpu" or "auto".
        seed: Of weights, order and noise: the same seed gives the same run, to the bit, on one machine.
        processes: Flows that train at once, in processes that share the cores: small flows are up to twice as fast
            so. A script needs `if __name__ == "__main__"` then.
        progress: Progress bars on stderr.

    Returns:
        An interpreter per layer, in eval mode.

    Raises:
        UserError: Something given cannot work; see the message.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving.
    """
    options = {key: value for key, value in locals().items() if key not in ("layers", "steps", "processes")}
    first = Representation(network, layers[0], weights)
    representations = {each: Representation(first, each) for each in layers}
    code = autoencoder_of(autoencoder)
    batch_of = of_each(batch_size, layers)
    data = FeatureData.of(
        images,
        held_out,
        batch_size=min(batch_of.values()),
        crop=crop,
        views=views,
        skip_broken=skip_broken,
        cache=cache,
        progress=progress,
    )
    steps_of = of_each(steps, layers)
    embedder_of: dict[str, EmbedderKind] = of_each(embedder, layers)
    optimizer_of, regression_of = of_each(optimizer, layers), of_each(regression, layers)
    named_of = of_each(auxiliary, layers)
    auxiliary_of = {
        layer: auxiliary_targets(each, named_of[layer], embedder_of[layer])
        for layer, each in representations.items()
    }
    every = {each.layer: each for some in auxiliary_of.values() for each in some}
    data.prepare([*representations.values(), *every.values()], code)
    sizes = {
        layer: {
            "blocks": blocks,
            "width": width,
            "depth": depth,
            "embedder": embedder_of[layer],
            "embedder_width": embedder_width,
            "embedder_statistics": embedder_statistics,
            "transform": transform,
        }
        for layer in layers
    }
    flows = {
        layer: new_flow(representation, code, seed, auxiliary_of[layer], **sizes[layer])
        for layer, representation in representations.items()
    }
    if min(processes, len(layers)) > 1:
        longest_first = sorted(layers, key=lambda layer: -steps_of[layer] * _cost(flows[layer]))
        jobs = [{**options, "layer": layer, "steps": steps_of[layer]} for layer in longest_first]
        trained = in_processes(_trained, jobs, min(processes, len(layers)))
        for layer, state in zip(longest_first, trained):
            flows[layer].load_state_dict(state)
        return {
            layer: Interpreter(representation, code, flows[layer]).eval()
            for layer, representation in representations.items()
        }
    learning: dict[str, Any] = {
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup": warmup,
        "ema": ema,
        "keep": keep,
        "weight_decay": weight_decay,
        "whiten": whiten,
    }
    named = {"network": _name(network), "autoencoder": _name(autoencoder), "weights": _name(weights)}
    interpreters = {}
    for layer, representation in representations.items():
        learned = {**learning, "optimizer": optimizer_of[layer], "regression": regression_of[layer]}
        training = FlowTraining(
            representation, code, flows[layer], **learned, auxiliary=auxiliary_of[layer], seed=seed
        )
        data.batch_size = batch_of[layer]
        folder = None if output is None else _folder(str(output), representation, resume)
        trainer_options: dict[str, Any] = {
            "max_steps": steps_of[layer],
            "accelerator": accelerator,
            "log_every_n_steps": log_every,
        }
        if folder:
            config = {
                "seed_everything": seed,
                "trainer": trainer_options,
                "model": {
                    **named,
                    "layer": layer,
                    **sizes[layer],
                    **learned,
                    "auxiliary": list(named_of[layer]),
                },
                "data": data.settings(),
                "cache": asdict(data.cache),
                "output": str(folder),
                "checkpoint_every": checkpoint_every,
                "samples_every": samples_every,
            }
            write_config(folder, config)
        with quiet():
            trainer = Trainer(
                **trainer_options,
                devices=1,
                enable_model_summary=False,
                enable_progress_bar=False,
                use_distributed_sampler=False,
                **parts(folder, checkpoint_every, samples_every, progress),
            )
            try:
                trainer.fit(training, datamodule=data, ckpt_path=folder / LAST if folder and resume else None)
            except Stopped as stop:
                raise KeyboardInterrupt(str(stop)) from None
        interpreters[layer] = training.interpreter().eval()
        if folder and trainer.is_global_zero:
            interpreters[layer].save(folder)
    return interpreters


def of_each(option: T | Mapping[str, T], layers: Sequence[str]) -> dict[str, T]:
    """What holds for each layer: the same for all, or its own."""
    return {layer: option[layer] if isinstance(option, Mapping) else option for layer in layers}


def _trained(**options: Any) -> dict[str, Tensor]:
    """The weights of one flow."""
    return fit(**options).flow.state_dict()


def _cost(flow: ConditionalFlow) -> int:
    """Of a pass of one latent."""
    return flops(flow.eval(), torch.zeros(1, flow.latent_dim), torch.zeros(1, *flow.representation_shape))


def _name(given: object) -> str | None:
    """What a config can say of a name or path; objects have none."""
    return os.fspath(given) if isinstance(given, (str, os.PathLike)) else None


def _folder(pattern: str, representation: Representation, resume: bool) -> Path:
    """The run's folder, new unless it is to be gone on with."""
    names = {"network": representation.network_name, "layer": representation.layer}
    wanted = Path(pattern.format(**names))
    folder, number = wanted, 1
    while not resume and ((folder / CONFIG).exists() or (folder / LAST).exists()):
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    check_writable(folder)
    print(f"run: {folder}", file=sys.stderr)
    return folder
