"""What a run is told: dataclasses that validate themselves, the same in Python, YAML and on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from invariances.features.config import CacheConfig as CacheConfig
from invariances.features.config import Precision as Precision
from invariances.flow.config import FlowConfig
from invariances.system.checks import choice, number, text
from invariances.system.errors import UserError

Optimizer = Literal["adam", "muon"]
Schedule = Literal["constant", "cosine"]
Keep = Literal["best", "last"]
Crop = Literal["center", "random"]

PUBLISHED_RATE = 4.5e-6
"""Published learning rate per picture of a step."""

DEBUG_STEPS, DEBUG_BATCHES_HELD_OUT = 10, 5
"""Of a debug run; it sees so many batches of pictures, too."""


@dataclass(frozen=True)
class DataConfig:
    """Pictures to learn from, and those that are kept out.

    Args:
        images: Folder of pictures, several, or the name of a data set (`invariances data list`).
        held_out: Share of them that is never trained on, a number of pictures, or other folders to keep out; null where
            a data set was given for it in Python.
        also: Further folders to train on, of which nothing is held out.
        crop: "center", or "random": crops of 0.8 to 1 of the shortest side, mirrored half of the time.
        views: Random crops that are cached per picture.
        skip_broken: Leave broken pictures out, named and counted, instead of stopping.
        split_seed: Of the choice of held-out pictures.
    """

    images: str | list[str] | None = None
    held_out: int | float | str | list[str] | None = 0.1
    also: list[str] | None = None
    crop: Crop = "center"
    views: int = 1
    skip_broken: bool = False
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("images", "held_out", "also"):
            value = getattr(self, name)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str) or isinstance(value, list):
                    text(f"data.{name}", each)
        if isinstance(self.held_out, bool) or self.held_out == []:
            raise UserError(
                f"data.held_out is {self.held_out!r}; give a share, a number of pictures or a folder"
            )
        if isinstance(self.held_out, int):
            number("data.held_out", self.held_out, 1, whole=True)
        elif isinstance(self.held_out, float) and not 0 < self.held_out < 1:
            raise UserError(
                f"data.held_out is {self.held_out}; give a share between 0 and 1, or a whole number of pictures"
            )
        choice("data.crop", self.crop, Crop)
        number("data.views", self.views, 1, whole=True)
        number("data.split_seed", self.split_seed, 0, 2**63, whole=True)
        if self.views > 1 and self.crop == "center":
            raise UserError(
                f"data.views is {self.views}, but every center crop is the same; use crop 'random'"
            )


@dataclass(frozen=True)
class LearningConfig:
    """How the flow learns.

    Args:
        steps: Training steps.
        batch_size: Pictures per step and process.
        learning_rate: The highest; 4.5e-6 × pictures per step by default, as published.
        optimizer: "adam" as published, or "muon": all weight matrices by `MuonAdam`, in a fraction of the steps.
        schedule: "constant" as published, or "cosine": down to zero at the last step.
        warmup: Share of the steps over which the learning rate rises from zero.
        ema: Decay of the weights' moving average, which is then evaluated and kept; 0 keeps the weights themselves.
        weight_decay: Share of each weight, times the learning rate, that is taken off at every step.
        regression: Share of the steps, the first ones, in which a regression embedder is taught.
        keep: "best": the weights of the lowest held-out loss, as measured after every epoch; or "last".
    """

    steps: int = 20_000
    batch_size: int = 16
    learning_rate: float | None = None
    optimizer: Optimizer = "adam"
    schedule: Schedule = "constant"
    warmup: float = 0.0
    ema: float = 0.0
    weight_decay: float = 0.0
    regression: float = 0.35
    keep: Keep = "best"

    def __post_init__(self) -> None:
        number("learning.steps", self.steps, 1, whole=True)
        number("learning.batch_size", self.batch_size, 1, 65_537, whole=True)
        rate = self.learning_rate
        if rate is not None:
            number("learning.learning_rate", rate, 0)
            if not 0 < rate < math.inf:
                raise UserError(f"learning.learning_rate is {rate}; it must be above 0")
        choice("learning.optimizer", self.optimizer, Optimizer)
        choice("learning.schedule", self.schedule, Schedule)
        number("learning.warmup", self.warmup, 0, 1)
        number("learning.ema", self.ema, 0, 1)
        number("learning.weight_decay", self.weight_decay, 0)
        number("learning.regression", self.regression, 0, 1)
        choice("learning.keep", self.keep, Keep)

    def rate(self, world_size: int = 1) -> float:
        """The learning rate for so many processes."""
        published = PUBLISHED_RATE * self.batch_size * world_size
        return published if self.learning_rate is None else self.learning_rate

    @classmethod
    def published(cls) -> LearningConfig:
        """Adam at a constant 4.5e-6 per picture."""
        return cls()

    @classmethod
    def minutes(cls) -> LearningConfig:
        """Some thousand pictures, some minutes of two cores: Muon, its rate falling to zero."""
        return cls(
            steps=1500,
            batch_size=128,
            learning_rate=8e-3,
            optimizer="muon",
            schedule="cosine",
            warmup=0.025,
            ema=0.99,
            weight_decay=0.2,
            regression=0.6,
        )

    @classmethod
    def maps(cls) -> LearningConfig:
        """Flows over maps, whose loop has its own rate and average; an hour of two cores from the shipped flow."""
        return cls(steps=8000, batch_size=60)

    @classmethod
    def hours(cls) -> LearningConfig:
        """Some ten thousand pictures or more, an hour of two cores: as `minutes`, larger steps and more of them."""
        return replace(cls.minutes(), steps=8000, batch_size=512, ema=0.998, regression=0.35)


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and on what it runs.

    Args:
        output: The run's folder; `{name}`, `{network}` and `{layer}` are filled in. None in Python keeps nothing.
        resume: Go on with the run in that folder.
        seed: Of weights, order and noise: the same seed gives the same run, to the bit, on one machine.
        device: "auto" for the accelerator where there is one, "cpu", "cuda", "cuda:1", "mps".
        devices: Processes of the training, each with a device of its own.
        num_nodes: Machines.
        precision: "32-true", or "bf16-mixed": the autoencoder and what learns in bfloat16, log-determinants in float32;
            up to twice as fast on processors and accelerators that compute in it, and 32-true on others.
        checkpoint_every: Steps between checkpoints; 0 for the last step alone.
        keep_checkpoints: So many of them stay, the newest, and the best; 0 for the last alone.
        samples_every: Steps between grids of pictures, after those of steps 0, 2, 4, 8, … 512; 0 for the last step
            alone.
        log_every: Steps between rows of metrics.csv, after those of steps 2, 4, 8, … 512.
        evaluate_every: Epochs between evaluations on the pictures kept out; 0 for none.
        wandb: Project of Weights & Biases to log to as well (extra `wandb`).
        progress: Bars on stderr.
        name: Of the run, in folders and charts; `{network}` and `{layer}` are filled in.
        debug_run: Ten steps on a few pictures, kept in runs/debug_runs: does everything work?
    """

    output: str | None = "runs/{name}"
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Precision = "32-true"
    checkpoint_every: int = 1000
    keep_checkpoints: int = 0
    samples_every: int = 1000
    log_every: int = 50
    evaluate_every: int = 0
    wandb: str | None = None
    progress: bool = True
    name: str = "{network}_{layer}"
    debug_run: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "output", "wandb"):
            if name == "name" or getattr(self, name) is not None:
                text(f"run.{name}", getattr(self, name))
        if self.output is not None and any(0xD800 <= ord(letter) < 0xE000 for letter in self.output):
            raise UserError(
                f"run.output is {self.output!r}, which is no UTF-8 here; give another name, or set LC_ALL=C.UTF-8"
            )
        if self.output is not None and any(len(part.encode()) > 240 for part in self.output.split("/")):
            raise UserError(
                "run.output has a name of over 240 letters, which no file system takes; shorten it"
            )
        number("run.seed", self.seed, 0, 2**63, whole=True)
        text("run.device", self.device)
        number("run.devices", self.devices, 1, 65_537, whole=True)
        number("run.num_nodes", self.num_nodes, 1, 65_537, whole=True)
        if self.precision not in get_args(Precision):
            raise UserError(
                f"run.precision is {self.precision!r}; use '32-true' or 'bf16-mixed' "
                "(a flow's log-determinant needs 32 bits, so there is no half precision throughout)"
            )
        for name in ("checkpoint_every", "keep_checkpoints", "samples_every", "evaluate_every"):
            number(f"run.{name}", getattr(self, name), 0, whole=True)
        number("run.log_every", self.log_every, 1, whole=True)


@dataclass(frozen=True)
class FitConfig:
    """What is studied, and how a flow learns it.

    Args:
        network: Name of a torchvision, timm, published or shipped network.
        layer: Name of the layer, as `invariances layers NETWORK` lists them.
        autoencoder: A file of `invariances fit-autoencoder`, or a published or shipped name.
        weights: Weights file (safetensors or checkpoint) in place of the network's own.
        size: Side of the pictures the network sees, in place of its own.
        token: "patch" or "class", what a transformer's layer gives.
        init: A flow to start from at step 0: a run's folder, or a published or shipped name. It comes with its
            architecture, and `flow` is not asked.
        layers: Names of several, which one flow over maps (--preset maps) learns at once, in place of `layer`.
        flow: The flow's architecture.
        data: The pictures.
        learning: How the flow learns.
        cache: Where features are kept.
        run: Where the run is kept.
    """

    network: str | None = None
    layer: str | None = None
    autoencoder: str | None = None
    weights: str | None = None
    size: int | list[int] | None = None
    token: str | None = None
    init: str | None = None
    layers: list[str] = field(default_factory=list)
    flow: FlowConfig = field(default_factory=FlowConfig)
    data: DataConfig = field(default_factory=DataConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for name in ("network", "layer", "autoencoder", "weights", "token", "init"):
            if getattr(self, name) is not None:
                text(name, getattr(self, name))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as YAML keeps them."""
        return asdict(self)


PRESETS: dict[str, Callable[[], tuple[FlowConfig, LearningConfig]]] = {
    "published": lambda: (FlowConfig.published(), LearningConfig.published()),
    "minutes": lambda: (FlowConfig.minutes(), LearningConfig.minutes()),
    "hours": lambda: (FlowConfig.hours(), LearningConfig.hours()),
    "maps": lambda: (FlowConfig.maps(), LearningConfig.maps()),
}
"""A flow and how it learns: as published, or what two cores do in minutes or hours."""


def debugged(config: FitConfig) -> FitConfig:
    """The configuration of a debug run: ten steps, everything looked at, nothing sent anywhere."""
    run = replace(
        config.run,
        output="runs/debug_runs/{name}",
        checkpoint_every=5,
        samples_every=5,
        log_every=1,
        wandb=None,
    )
    return replace(config, run=run, learning=replace(config.learning, steps=DEBUG_STEPS))


def config_parser(kind: type, *leave_out: str, **options: Any) -> Any:
    """A jsonargparse parser whose options are the fields of a dataclass, and `-c` for YAML files.

    Args:
        kind: The dataclass.
        leave_out: Fields that are no options.
        options: The parser's own.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)
    parser.add_argument(
        "-c", "--config", action="config", help="YAML file; several may be given, the last wins."
    )
    parser.add_class_arguments(kind, as_group=False, skip=set(leave_out))
    return parser


def instances(parser: Any, parsed: Any) -> Any:
    """What was parsed, with dataclasses for their sections; a section without a line sets nothing.

    Raises:
        UserError: A value is impossible, or stands where a section should.
    """
    keys = {action.dest for action in parser._actions}
    for section in sorted({key.rpartition(".")[0] for key in keys} & keys):
        value = parsed.get(section)
        if value is None:
            parsed[section] = parser.get_defaults()[section]
        elif not hasattr(value, "__dict__"):
            shown = json.dumps(value, default=str)
            raise UserError(
                f"{section} is {shown}, and holds no settings; write them below it, or leave it out"
            )
    return parser.instantiate(parsed)


def instantiated(parser: Any, parsed: Any) -> FitConfig:
    """The `FitConfig` that was parsed.

    Raises:
        UserError: A value is impossible.
    """
    found = vars(instances(parser, parsed))
    return FitConfig(**{each.name: found[each.name] for each in fields(FitConfig)})
