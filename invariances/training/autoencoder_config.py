"""What the training of an autoencoder is told; the same in Python, in YAML and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from invariances.system.checks import choice, number, text
from invariances.system.errors import UserError
from invariances.training.config import DataConfig, RunConfig

Kind = Literal["vae", "spatial"]
_VAE_ONLY = {"latent_dim": 1, "width": 1, "max_width": 1, "blocks": 0}
LPIPS_NAME = "lpips"


@dataclass(frozen=True)
class CodeConfig:
    """What kind of autoencoder, and its size.

    Args:
        kind: "vae": a vector for each picture; "spatial": a map of an eighth of its side, for --preset maps.
        size: Side of the pictures in pixels: 32, 64 or 128; for a spatial one any multiple of 8.
        latent_dim: Of a VAE: length of the code, 128 by default.
        width: Of a VAE: channels at half resolution, 32 by default; they double at every halving.
        max_width: Of a VAE: most channels of any layer, 256 by default.
        blocks: Of a VAE: residual blocks per resolution, 1 by default.
    """

    kind: Kind = "vae"
    size: int = 64
    latent_dim: int | None = None
    width: int | None = None
    max_width: int | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        choice("code.kind", self.kind, Kind)
        for name, value in self.vae_sizes().items():
            number(f"code.{name}", value, _VAE_ONLY[name], 1_000_000, whole=True)
        if self.kind == "vae":
            if self.size not in (32, 64, 128):
                raise UserError(
                    f"a VAE of size {self.size!r} is not possible; choose 32, 64 or 128 pixels, or --kind spatial"
                )
            return
        number("code.size", self.size, 8, 4097, whole=True)
        if self.size % 8:
            raise UserError(
                f"a spatial autoencoder of size {self.size} is not possible; give a multiple of 8"
            )
        if self.vae_sizes():
            raise UserError(
                f"{' and '.join(self.vae_sizes())} cannot be chosen for a spatial autoencoder, which has one "
                "architecture for all sizes; leave out, or take --kind vae"
            )

    def vae_sizes(self) -> dict[str, int]:
        """Those sizes of a VAE that are given."""
        return {name: getattr(self, name) for name in _VAE_ONLY if getattr(self, name) is not None}


@dataclass(frozen=True)
class Objective:
    """mean|x − x̂| + perceptual · d(x, x̂) + kl · KL(q ‖ N(0, I)), and a critic's gradient.

    Args:
        perceptual: Weight of the perceptual distance; by default 0.1 in a network's layers, 1 by LPIPS.
        perceptual_start: Share of the steps after which it joins.
        kl: Weight of the KL divergence in nats per picture; by default 1e-5 for a VAE, 0 for a spatial one.
        adversarial: Norm of the patch critic's gradient at the picture, as a share of the others; 0 turns it off.
        adversarial_start: Share of the steps after which it joins.
    """

    perceptual: float | None = None
    perceptual_start: float = 0.0
    kl: float | None = None
    adversarial: float = 0.0
    adversarial_start: float = 0.6

    def __post_init__(self) -> None:
        for name in ("perceptual", "kl", "adversarial"):
            if getattr(self, name) is not None:
                number(f"objective.{name}", getattr(self, name), 0)
        for name in ("perceptual_start", "adversarial_start"):
            number(f"objective.{name}", getattr(self, name), 0, 1.000001)

    def complete(self, spatial: bool, lpips: bool) -> Objective:
        """With the weights that are left out: a spatial code is bounded and needs no KL divergence.

        Args:
            spatial: The autoencoder is a spatial one.
            lpips: The perceptual distance is LPIPS, whose learned weights are small.
        """
        perceptual = (1.0 if lpips else 0.1) if self.perceptual is None else self.perceptual
        kl = (0.0 if spatial else 1e-5) if self.kl is None else self.kl
        return replace(self, perceptual=perceptual, kl=kl)


@dataclass(frozen=True)
class Schedule:
    """Adam with a linear warm-up and a cosine decay to zero, and an exponential moving average of the weights.

    Args:
        steps: Training steps.
        batch_size: Pictures per step.
        learning_rate: The highest.
        warmup: Steps of linear warm-up.
        ema: Decay of the averaged weights, which are the ones kept.
        flip: Mirror pictures at random.
        shift: Move pictures at random by up to so many pixels, borders repeated.
    """

    steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    flip: bool = True
    shift: int = 2

    def __post_init__(self) -> None:
        number("schedule.steps", self.steps, 1, whole=True)
        number("schedule.batch_size", self.batch_size, 1, 65_537, whole=True)
        number("schedule.learning_rate", self.learning_rate, 0)
        number("schedule.warmup", self.warmup, 0, whole=True)
        number("schedule.ema", self.ema, 0, 1)
        number("schedule.shift", self.shift, 0, 33, whole=True)
        if not self.learning_rate > 0:
            raise UserError(f"schedule.learning_rate is {self.learning_rate}; it must be above 0")


@dataclass(frozen=True)
class Eyes:
    """A network whose layers compare pictures.

    Args:
        network: Its name, as for `invariances layers`; "lpips" for LPIPS by AlexNet; none for pixels alone.
        layers: Its layers, early ones for texture.
        weights: Its weights file; for "lpips" one of AlexNet's convolutions and LPIPS' linear layers.
    """

    network: str | None = None
    layers: list[str] | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        for name in ("network", "weights"):
            if getattr(self, name) is not None:
                text(name, getattr(self, name))
        if self.network == LPIPS_NAME:
            if self.layers or self.weights is None:
                raise UserError(
                    "LPIPS needs a file and has its own layers; give --network lpips --weights FILE, and no --layers"
                )
            return
        if (self.network is None) != (not self.layers):
            raise UserError("--network and --layers belong together; give both, or neither for pixels alone")


@dataclass(frozen=True)
class AutoencoderConfig:
    """All that `fit-autoencoder` is told.

    Args:
        data: The pictures.
        code: The autoencoder.
        objective: What it learns by.
        schedule: How it learns.
        eyes: Who compares pictures.
        run: Where the run is kept; `checkpoint_every` is also how often held-out pictures are looked at.
    """

    data: DataConfig = field(default_factory=DataConfig)
    code: CodeConfig = field(default_factory=CodeConfig)
    objective: Objective = field(default_factory=Objective)
    schedule: Schedule = field(default_factory=Schedule)
    eyes: Eyes = field(default_factory=Eyes)
    run: RunConfig = field(default_factory=lambda: RunConfig(output="runs/autoencoder"))
