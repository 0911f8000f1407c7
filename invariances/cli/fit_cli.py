"""LightningCLI for the flow: one parser for network, layer, data, cache and trainer, and a folder per run."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from invariances.cli.parsing import explained, help_formatter, split_docstring
from invariances.flow.embedders.embedder import EmbedderKind
from invariances.flow.flow import Transform
from invariances.interpreter import LAST, autoencoder_of, resume_command
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.files import check_writable
from invariances.training.auxiliary import auxiliary_targets
from invariances.training.callbacks import parts, quiet
from invariances.training.data import CacheOptions, FeatureData
from invariances.training.flow import FlowTraining, Keep, Optimizer, new_flow
from invariances.training.run_folder import write_config
from invariances.training.schedule import RateSchedule

STEPS = 20_000


def flow_training(
    network: str,
    layer: str,
    autoencoder: str,
    weights: str | None = None,
    size: int | None = None,
    token: str | None = None,
    blocks: int = 20,
    width: int = 1024,
    depth: int = 2,
    embedder: EmbedderKind = "published",
    embedder_width: int = 64,
    embedder_statistics: bool = False,
    transform: Transform = "coupling",
    learning_rate: float | None = None,
    schedule: RateSchedule = "constant",
    warmup: int = 0,
    ema: float = 0.0,
    keep: Keep = "best",
    optimizer: Optimizer = "adam",
    weight_decay: float = 0.0,
    whiten: bool = True,
    regression: float = 0.35,
    auxiliary: list[str] | None = None,
    seed: int = 0,
) -> FlowTraining:
    """What is studied, and the flow that learns.

    Args:
        network: Name of a torchvision, timm, published or shipped network.
        layer: Name of the layer, as `invariances layers NETWORK` lists them.
        autoencoder: A file of `invariances fit-autoencoder`, or a published or shipped name.
        weights: Weights file (safetensors or checkpoint) in place of the network's own.
        size: Side of the pictures the network sees, in place of its own.
        token: "patch" or "class", what a transformer's layer gives.
        blocks: Blocks of the flow.
        width: Of the hidden layers of its nets.
        depth: Hidden layers after the first.
        embedder: "published", or "residual", which finds what a layer shows faintly, and in fewer steps.
        embedder_width: Of a residual embedder: channels of its first halving block, or a 16th of its hidden units.
        embedder_statistics: Whether a residual embedder of maps reads mean and deviation of their channels too: it
            finds fainter textures, given thousands of pictures, and learns hundreds by heart.
        transform: "coupling" as published, or "continuous", learned by flow matching: it finds what the layer shows
            faintly from fewer pictures, and takes longer to sample; 4 blocks serve it well.
        learning_rate: Of Adam; 4.5e-6 × pictures per step by default, as published.
        schedule: "constant", or "cosine" down to zero at the last step.
        warmup: Steps over which the learning rate rises.
        ema: Decay of the weights' moving average, which is then evaluated and kept; 0 for none.
        keep: "best", the weights of the lowest held-out loss, or "last", those of the last step.
        optimizer: "adam" as published, or "muon", which learns what a layer shows faintly in fewer steps, or
            "muon_embedder": so the embedder alone, in steps that cost half as much.
        weight_decay: Share of each weight, times the learning rate, that is taken off at every step.
        whiten: Start a published embedder at whitened components of the features and a linear guess of the latent;
            whiten the vectors that a residual one reads.
        regression: Share of the steps, the first ones, in which a residual embedder learns to regress the latent.
        auxiliary: Shallower layers of maps: a residual embedder learns to guess the mean and standard deviation of
            their channels too, and so finds what the layer shows faintly.
        seed: Taken from seed_everything.
    """
    representation = Representation(network, layer, weights, size=size, token=token)
    beside = auxiliary_targets(representation, auxiliary or [], embedder)
    code = autoencoder_of(autoencoder)
    sizes: dict[str, Any] = {
        "blocks": blocks,
        "width": width,
        "depth": depth,
        "embedder": embedder,
        "embedder_width": embedder_width,
        "embedder_statistics": embedder_statistics,
        "transform": transform,
    }
    flow = new_flow(representation, code, seed, beside, **sizes)
    return FlowTraining(
        representation,
        code,
        flow,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        ema=ema,
        keep=keep,
        optimizer=optimizer,
        weight_decay=weight_decay,
        whiten=whiten,
        regression=regression,
        auxiliary=beside,
        seed=seed,
    )


class FitCLI(LightningCLI):
    """Parses, makes the run's folder, trains, and keeps the interpreter."""

    def __init__(self, words: list[str], doc: str) -> None:
        description, example = split_docstring(doc)
        super().__init__(
            flow_training,
            FeatureData,
            run=False,
            args=words,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "max_steps": STEPS,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "devices": 1,
            },
            parser_kwargs={
                "prog": "invariances fit",
                "description": description,
                "epilog": example,
                "formatter_class": help_formatter(),
                "exit_on_error": False,
                "allow_abbrev": False,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's own options."""
        parser.add_class_arguments(CacheOptions, "cache")
        parser.add_argument(
            "--output", type=str | None, default=None, help="The run's folder; runs/NETWORK_LAYER by default."
        )
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from.")
        parser.add_argument("--checkpoint_every", type=int, default=1000, help="Steps between checkpoints.")
        parser.add_argument("--samples_every", type=int, default=1000, help="Steps between sample grids.")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As LightningCLI, with a sentence for what cannot be parsed."""
        with explained(parser):
            self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """The run's folder, before anything slow: it must be writable, and not hold another run."""
        config = self.config
        if config.output is None:
            name = Path(config.model.network).name.removesuffix(".safetensors")
            config.output = f"runs/{name}_{config.model.layer}".replace("#", "_")
        self.folder = Path(config.output)
        if not _first_process():
            return
        last = self.folder / LAST
        if config.ckpt_path is None and last.exists():
            raise UserError(
                f"folder {str(self.folder)!r} holds a run already; go on with `{resume_command(self.folder)}`, "
                "or choose another --output"
            )
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise UserError(
                f"checkpoint {config.ckpt_path!r} does not exist; a run keeps its last one in {LAST}"
            )
        check_writable(self.folder)
        self._write_config()

    def _write_config(self) -> None:
        kept = self.config.clone()
        kept.ckpt_path = None
        kept.pop("config", None)
        with warnings.catch_warnings():  # the argument has another name in the newest jsonargparse
            warnings.simplefilter("ignore")
            text = self.parser.dump(kept, skip_none=False)
        write_config(self.folder, yaml.safe_load(text))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The configured trainer with what makes a run: metrics, grids, checkpoints, signals, a bar."""
        config: Namespace = self.config_init
        trainer = dict(config.trainer)
        bar = trainer.get("enable_progress_bar") is not False
        made = parts(self.folder, config.checkpoint_every, config.samples_every, bar)
        given = trainer.get("callbacks") or []
        trainer["callbacks"] = [*(given if isinstance(given, list) else [given]), *made["callbacks"]]
        if trainer.get("logger") in (None, True):
            trainer["logger"] = made["logger"]
        plugins = trainer.get("plugins") or []
        trainer["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), *made["plugins"]]
        trainer["enable_progress_bar"] = False
        return Trainer(**{**trainer, **kwargs})


def _first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def train(words: list[str], doc: str) -> None:
    """`invariances fit WORDS`: parse, train, keep.

    Raises:
        UserError: Something given cannot work.
        Stopped: A signal asked to stop, and the run saved itself.
    """
    with quiet():
        cli = FitCLI(words, doc)
        data: FeatureData = cli.datamodule
        training: FlowTraining = cli.model
        data.cache = cli.config_init.cache
        data.prepare([training.frozen[0], *training.auxiliary], training.frozen[1])
        cli.trainer.fit(training, datamodule=data, ckpt_path=cli.config.ckpt_path)
    if cli.trainer.is_global_zero:
        training.interpreter().eval().save(cli.folder)
        print(f"done: {cli.folder}; next: invariances evaluate {cli.folder}", file=sys.stderr)
