"""Network, autoencoder and flow as one object that shows what a layer knows and what it ignores."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invariances.autoencoder.storage import Own, save_autoencoder
from invariances.data.arrays import check_values
from invariances.data.given import load_images
from invariances.flow.diverse import diverse_latents
from invariances.flow.flow import ConditionalFlow
from invariances.flow.layered import LayeredFlow
from invariances.flow.refine import MOST_STEPS, refined
from invariances.representation.representation import Representation
from invariances.system.checks import number, text
from invariances.system.errors import UserError, nearest
from invariances.system.files import atomic
from invariances.system.seeds import seeded
from invariances.zoo.interpreters import Offer, find_offer, load_flow
from invariances.zoo.loading import load_autoencoder
from invariances.zoo.needs import needing
from invariances.zoo.runs import AUTOENCODER, PREFIX, WEIGHTS, is_name, read_run

_CHUNK = 64


class Interpreter:
    """x ↦ (z = Φ(x), v = t(E(x) | z)) and back, x = D(t⁻¹(v | z)): paper section 3.

    Images are (N, 3, H, W) in [-1, 1], or what `load_images` takes (a path, a PIL picture, an 8-bit array, a list of
    these); they are brought to the autoencoder's size first, as in training.

    Args:
        representation: Φ, the network cut at a layer.
        autoencoder: E and D.
        flow: t, for this representation and this autoencoder; or one flow for several layers of the network.

    Attributes:
        layers: Those that it has flows for; `at` gives the interpreter of another.
        precision: "32-true", or "bf16-mixed": D runs in bfloat16, twice as fast on processors that compute in it;
            pictures differ by a few levels of 255 at most.

    Raises:
        UserError: The three do not fit together.
    """

    precision = "32-true"

    def __init__(
        self, representation: Representation, autoencoder: nn.Module, flow: ConditionalFlow | LayeredFlow
    ) -> None:
        self.whole = flow
        if isinstance(flow, LayeredFlow):
            flow = flow.at(representation.layer)
        if flow.latent_dim != autoencoder.latent_dim:
            raise UserError(
                f"the flow is for latents of {flow.latent_dim} dimensions, but the autoencoder has "
                f"{autoencoder.latent_dim}; use the autoencoder that it was trained with"
            )
        if flow.representation_shape and flow.representation_shape != squeezed(representation.shape):
            raise UserError(
                f"the flow is for representations of shape {tuple(flow.representation_shape)}, but layer "
                f"{representation.layer!r} of {representation.network_name} gives {tuple(representation.shape)}"
            )
        self.representation, self.autoencoder, self.flow = representation, autoencoder, flow

    @property
    def device(self) -> torch.device:
        """Where the flow lives, and with it everything."""
        return next(self.flow.parameters()).device

    @property
    def layers(self) -> list[str]:
        """The layers that there are flows for."""
        return list(self.whole.layers) if isinstance(self.whole, LayeredFlow) else [self.representation.layer]

    def at(self, layer: str) -> Interpreter:
        """The interpreter of another of its layers; shares network, autoencoder and flow.

        Raises:
            UserError: There is no flow for it.
        """
        if layer == self.representation.layer:
            return self
        if layer not in self.layers:
            raise UserError(
                f"there is no flow for layer {layer!r} here; there is {nearest(layer, self.layers)}"
            )
        other = Interpreter(self.representation.at(layer), self.autoencoder, self.whole)
        other.precision = self.precision
        return other

    @property
    def image_size(self) -> int:
        """Side of the pictures that are seen and made."""
        return int(self.autoencoder.image_size)  # type: ignore[arg-type]

    @property
    def encodes(self) -> bool:
        """Whether pictures have latents; else there are samples only."""
        return hasattr(self.autoencoder, "encode")

    def to(self, device: str | torch.device) -> Interpreter:
        """Move all three parts."""
        for part in (self.representation, self.autoencoder, self.whole, self.flow):
            part.to(device)
        return self

    def eval(self) -> Interpreter:
        """Freeze all three parts: eval mode, no gradients for weights."""
        for part in (self.representation, self.autoencoder, self.whole, self.flow):
            part.eval().requires_grad_(False)
        return self

    def resized(self, images: Any) -> Tensor:
        """The pictures at the autoencoder's size and on its device, bicubic with antialiasing; in [-1, 1].

        Args:
            images: (N, 3, H, W) or (3, H, W) in [-1, 1], or whatever else `load_images` takes.

        Raises:
            UserError: They are no pictures, or have values outside of [-1, 1].
        """
        given: Tensor = images
        if not isinstance(images, Tensor) or not images.is_floating_point():
            given = load_images(images, self.image_size)
        if given.dim() == 3:
            given = given[None]
        if given.dim() != 4 or given.shape[1] != 3 or 0 in given.shape:
            raise UserError(
                f"a tensor of shape {tuple(given.shape)} holds no pictures; give (3, H, W) or (N, 3, H, W)"
            )
        check_values(given, "a picture")
        given = given.to(self.device)
        size = (self.image_size, self.image_size)
        if given.shape[-2:] != size:
            given = F.interpolate(given, size=size, mode="bicubic", antialias=True, align_corners=False)
            given = given.clamp(-1, 1)
        return given

    @torch.no_grad()
    def represent(self, images: Tensor) -> Tensor:
        """Z = Φ(x)."""
        z: Tensor = self.representation(self.resized(images))
        return z

    @torch.no_grad()
    def latent(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z̄, (N, D): the posterior's mode, or a sample of it where a generator is given."""
        if not self.encodes:
            raise UserError(
                f"{type(self.autoencoder).__name__} has no encoder, so pictures have no latents here; draw samples"
            )
        posterior = self.autoencoder.encode(self.resized(images))  # type: ignore[operator]
        latent: Tensor = posterior.mode() if generator is None else _drawn(posterior, generator)
        return latent

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """D(z̄): latents (..., *latent_shape) to images (..., 3, S, S) in [-1, 1], some at a time."""
        shape = self.flow.latent_shape
        flat = latents.to(self.device).reshape(-1, *shape)
        decode: Any = self.autoencoder.decode
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision != "32-true"):
            parts = [decode(flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK)]
        images = torch.cat(parts).to(flat.dtype)
        return images.reshape(*latents.shape[: latents.dim() - len(shape)], *images.shape[1:])

    @torch.no_grad()
    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The invariance v = t(z̄ | Φ(x)), (N, D), z̄ as of `latent`."""
        return self.flow.invariance(self.latent(images, generator), self.represent(images))

    def reconstruct(self, images: Tensor) -> Tensor:
        """D(E(x)), what the autoencoder alone makes of the pictures: the best that samples can be."""
        return self.decode(self.latent(images))

    @torch.no_grad()
    def sample(
        self,
        images: Tensor,
        n: int = 8,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        layer: str | None = None,
        guidance: float = 1.0,
        diverse: bool = False,
        refine: int = 0,
    ) -> Tensor:
        """D(t⁻¹(v | Φ(x))), v ~ N(0, temperature² I): (N, n, 3, S, S), pictures that the layer cannot tell from x.

        Args:
            images: The pictures.
            n: How many for each.
            temperature: 1 for true samples; lower shows less variety, 0 one typical picture.
            generator: Makes them repeat.
            layer: Another of `layers` than its own.
            guidance: Of flows over maps: above 1 more typical pictures, which are no samples of p(z̄ | z) any more.
            diverse: Of 8 n samples those that differ most (by latents): how far the invariance reaches, no fair draw.
            refine: So many gradient steps on ‖Φ(x') − z‖² / ‖z‖² from each draw: x' nearer to x for the layer, but no
                samples of p(z̄ | z) any more; numbers of invariance are never made of them.

        Raises:
            UserError: A number makes no sense, or there is no flow for that layer.
        """
        if layer not in (None, self.representation.layer):
            other = self.at(str(layer))
            return other.sample(images, n, temperature, generator, None, guidance, diverse, refine)
        number("refine", refine, 0, MOST_STEPS + 1, whole=True)
        draw = partial(diverse_latents, self.flow) if diverse else self.flow.sample
        z = self.represent(images)
        latents = draw(z, n, temperature, generator, guidance)
        if refine:
            goals = z.repeat_interleave(latents.shape[1], dim=0)
            latents = refined(latents.flatten(0, 1), goals, self._seen, refine).view_as(latents)
        return self.decode(latents)

    def _seen(self, latents: Tensor) -> Tensor:
        """Φ(D(z̄)), differentiable, of latents (N, *latent_shape)."""
        z: Tensor = self.representation(self.autoencoder.decode(latents))  # type: ignore[operator]
        return z

    @torch.no_grad()
    def mix(self, content: Tensor, invariance: Tensor) -> Tensor:
        """D(t⁻¹(v(x₁) | Φ(x₂))): what the layer knows of `content` x₂ with what it ignores of `invariance` x₁.

        Both are (N, 3, H, W); one of them may be a single picture, which then goes with all of the other.
        """
        z, v = self.represent(content), self.encode(invariance)
        count = max(len(z), len(v))
        if {len(z), len(v)} - {1, count}:
            raise UserError(
                f"{len(z)} contents and {len(v)} invariances do not pair; give as many, or one of one"
            )
        z, v = (each.expand(count, *each.shape[1:]) for each in (z, v))
        return self.decode(self.flow.inverse(v, z))

    @torch.no_grad()
    def log_prob(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Log p(z̄ | Φ(x)) in nats, (N,), z̄ as of `latent`."""
        return self.flow.log_prob(self.latent(images, generator), self.represent(images))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `interpreter.safetensors` (the flow, and what it belongs to) and the autoencoder beside it.

        The network itself stays out: its name, or its weights, are given again when loading. A published
        autoencoder, or a module of one's own, stays out likewise.

        Raises:
            UserError: The folder cannot be written to.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        name = getattr(self.autoencoder, "published_name", None)
        if name is None:
            ours = isinstance(self.autoencoder, Own)
            name = AUTOENCODER if ours else ""
            if ours:
                save_autoencoder(self.autoencoder, folder / AUTOENCODER)  # type: ignore[arg-type]
        metadata = {
            "kind": "interpreter",
            "flow": json.dumps(self.whole.spec()),
            "representation": json.dumps(self.representation.spec()),
            "network_fingerprint": self.representation.fingerprint(),
            "autoencoder": name,
            "autoencoder_fingerprint": self.autoencoder.fingerprint(),  # type: ignore[operator]
        }
        tensors = {PREFIX + key: value.cpu().contiguous() for key, value in self.whole.state_dict().items()}
        with atomic(folder / WEIGHTS) as draft:
            save_file(tensors, draft, metadata=metadata)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        network: str | os.PathLike[str] | nn.Module | None = None,
        autoencoder: str | os.PathLike[str] | nn.Module | None = None,
        layer: str | None = None,
    ) -> Interpreter:
        """The interpreter that `save` wrote, or one that has a name, in eval mode.

        Args:
            folder: A run's folder; a shipped or published flow's name (`cinn_alexnet_aae_fc6`), which brings its
                network and autoencoder along; or the name of a network that has such flows (`shapes_shape`).
            network: The network as a module, or its weights file, where the folder came from elsewhere and the
                network has no public name. By default as it was in training. A Representation is shared, not copied.
            autoencoder: Another copy of the autoencoder; by default the one in the folder.
            layer: Which of its layers. It may be left out where there is but one, and where one flow has all: then
                `layer` of `sample`, or `at`, chooses.

        Raises:
            UserError: Something is missing, damaged, or not what the flow was trained with.
        """
        if is_name(folder):
            return cls._named(find_offer(os.fspath(folder), layer), network, autoencoder)
        text("the folder of a run", os.fspath(folder))
        flow, metadata = read_run(Path(folder))
        representation = _network(metadata, network)
        if representation.fingerprint() != metadata["network_fingerprint"]:
            raise UserError(
                f"{representation.network_name} has other weights, code or preprocessing now than when {str(folder)!r} "
                "was trained; give the right network or its weights file"
            )
        if autoencoder is None:
            name = metadata["autoencoder"]
            if not name:
                raise UserError(
                    f"{str(folder)!r} was trained with an autoencoder of your own, which it does not hold; give it to "
                    "`Interpreter.load(folder, autoencoder=module)`"
                )
            autoencoder = Path(folder) / name if name == AUTOENCODER else name
        code = autoencoder_of(autoencoder)
        if code.fingerprint() != metadata["autoencoder_fingerprint"]:  # type: ignore[operator]
            raise UserError(f"the autoencoder is not the one that {str(folder)!r} was trained with")
        found = cls(representation, code, flow).eval()
        return found if layer is None else found.at(layer)

    @classmethod
    def _named(
        cls,
        offer: Offer,
        network: str | os.PathLike[str] | nn.Module | None,
        autoencoder: str | os.PathLike[str] | nn.Module | None,
    ) -> Interpreter:
        """The interpreter of a registered flow."""
        with needing(
            [offer.name, offer.network if network is None else None, autoencoder or offer.autoencoder]
        ):
            flow, told = load_flow(offer)
            if isinstance(network, nn.Module):
                representation = Representation(network, offer.layer)
            else:
                weights = None if network is None else os.fspath(network)
                representation = Representation(offer.network, offer.layer, weights)
            code = autoencoder_of(autoencoder or offer.autoencoder)
        for part, kind in ((representation, "network"), (code, "autoencoder")):
            expected = told.get(f"{kind}_fingerprint")
            if expected is not None and part.fingerprint() != expected:  # type: ignore[operator]
                raise UserError(f"the {kind} is not the one that {offer.name} was trained with")
        return cls(representation, code, flow).eval()


def _drawn(posterior: Any, generator: torch.Generator) -> Tensor:
    """A sample by a generator on the CPU or on the posterior's own device."""
    home = posterior.mean.device
    noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device).to(home)
    sample: Tensor = posterior.mean + (0.5 * posterior.logvar).exp() * noise
    return sample


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C,) of (C, 1, 1); any other shape as it is."""
    return tuple(shape[:1]) if tuple(shape[1:]) == (1, 1) else tuple(shape)


def _network(metadata: dict[str, str], network: str | os.PathLike[str] | nn.Module | None) -> Representation:
    try:
        spec = dict(json.loads(metadata["representation"]))
    except (ValueError, TypeError):
        raise UserError("the run's description of its network is damaged; train again") from None
    if isinstance(network, nn.Module):
        return Representation.from_spec(spec, network=network)
    if network is not None:
        known = Path(network).suffix != "" or Path(network).exists()
        spec = {**spec, **({"weights": os.fspath(network)} if known else {"network": os.fspath(network)})}
    return Representation.from_spec(spec)


def autoencoder_of(source: str | os.PathLike[str] | nn.Module) -> nn.Module:
    """An autoencoder, frozen: from a file, a published or shipped name, or as it is.

    Raises:
        UserError: There is none, or it codes two pictures alike, or by what is not finite: its weights are damaged.
    """
    name = "the autoencoder" if isinstance(source, nn.Module) else f"the autoencoder {os.fspath(source)!r}"
    code: Any = source if isinstance(source, nn.Module) else load_autoencoder(source)
    code = code.eval().requires_grad_(False)
    if hasattr(code, "encode"):
        place = next((each.device for each in (*code.parameters(), *code.buffers())), torch.device("cpu"))
        pictures = 2 * torch.rand(2, 3, code.image_size, code.image_size, generator=seeded("autoencoder")) - 1
        with torch.no_grad():
            one, two = code.encode(pictures.to(place)).mean
        if not bool(torch.isfinite(one).all()) or torch.equal(one, two):
            said = "codes pictures alike" if torch.equal(one, two) else "gives codes that are not finite"
            raise UserError(f"{name} {said}; its weights are damaged: train or fetch it again")
    return code  # type: ignore[no-any-return]
