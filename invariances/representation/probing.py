"""What a network is tried on before it is believed: that it runs, and that its answers depend on the picture alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from invariances.representation.network import Network, short
from invariances.representation.taps import Extractor, difference, tolerance
from invariances.system.errors import UserError

_CHANNELS = (3, 1, 4)


@contextmanager
def private_chance(device: torch.device) -> Iterator[None]:
    """Leaves the caller's random numbers alone, whatever a network draws."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def taken_channels(network: nn.Module) -> tuple[int, ...]:
    """The numbers of channels that a network may take, the likeliest first; one where its convolutions say so."""
    convolutions = [each.in_channels for each in network.modules() if isinstance(each, nn.Conv2d)]
    first = convolutions[0] if convolutions else None
    if first == 3 and not {1, 4} & set(convolutions):
        return (3,)
    return (first, *(each for each in _CHANNELS if each != first)) if first in (1, 4) else _CHANNELS


def refusal(network: nn.Module, title: str, shape: tuple[int, int], error: Exception) -> UserError:
    """A sentence for a network that fails on every probe."""
    inputs = _needed(network)
    if len(inputs) > 1:
        return UserError(
            f"{title} takes {len(inputs)} inputs ({', '.join(inputs)}), and a Representation gives it images alone; "
            "give its part that sees images, or a module whose forward(images) fills in the others."
        )
    if any(isinstance(each, nn.Conv3d) for each in network.modules()):
        return UserError(
            f"{title} takes video ({short(error)}), and a Representation gives it pictures; give a module that makes a "
            "clip of each first, such as images[:, :, None].repeat(1, 1, 8, 1, 1)."
        )
    first = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    if first is not None and first.in_channels not in _CHANNELS:
        return UserError(
            f"{title} takes images of {first.in_channels} channels, and pictures have three (one and four are made of "
            "them); give a module that makes the others first."
        )
    height, width = shape
    return UserError(
        f"{title} cannot be run on images of {height}×{width} pixels ({short(error)}); give the size that it takes, "
        "as size=…, or another network."
    )


def _needed(network: nn.Module) -> list[str]:
    """The names of the inputs without which `forward` cannot be called."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in parameters if each.kind in kinds and each.default is each.empty]


def checked_function(extractor: Extractor, probe: Tensor, batch_axes: Sequence[int], title: str) -> None:
    """Refuses layers that answer differently to the same picture: by chance, or for the pictures beside it.

    Args:
        extractor: of the layers.
        probe: two different pictures, as the network takes them.
        batch_axes: of each layer's output.
        title: the network's.

    Raises:
        UserError: names the layer, and says by how much it differs.
    """
    with torch.no_grad():
        truth, again = extractor(probe.clone()), extractor(probe.clone())
        for tap, one, two in zip(extractor.taps, truth, again, strict=True):
            _same(two, one, _called(tap.module, title), "two passes of the same pictures", _CHANCE)
        try:
            alone = extractor(probe[:1].clone())
        except Exception as error:  # whatever an arbitrary network raises
            raise UserError(
                f"{title} runs on two pictures and not on one ({short(error)}), so what it says of a picture depends "
                f"on the others in its batch; {_ANYWAY}."
            ) from error
        for tap, axis, among, single in zip(extractor.taps, batch_axes, truth, alone, strict=True):
            name = _called(tap.module, title)
            what = "a picture alone and beside another"
            _same(single, among.narrow(axis, 0, 1), name, what, _MATES, _quantised(extractor.network))


_ANYWAY = "pass check=False to Representation to go on all the same"
_CHANCE = "switch its chance off, as in F.dropout(x, training=self.training)"
_MATES = "make it depend on the picture alone, as BatchNorm2d does with track_running_stats=True"


def _called(module: str, title: str) -> str:
    return f"layer {module!r} of {title}" if module else f"the output of {title}"


def _quantised(network: nn.Module) -> bool:
    """Whether modules round to steps that they choose by the batch, as torch's dynamic quantisation does."""
    return any("quantized" in type(each).__module__ for each in network.modules())


def _same(one: Tensor, other: Tensor, name: str, what: str, advice: str, coarse: bool = False) -> None:
    if one.shape != other.shape:
        raise UserError(
            f"{name} is no function of the picture: {what} give {tuple(one.shape)} and {tuple(other.shape)}; {advice}, "
            f"or {_ANYWAY}."
        )
    apart = difference(one, other)
    if apart > tolerance(other, coarse):
        raise UserError(
            f"{name} is no function of the picture: {what} differ by {100 * apart:.3g} % of the largest value; "
            f"{advice}, or {_ANYWAY}."
        )


def check_weights(extractor: Extractor, probe: Tensor, source: Network) -> None:
    """Refuses layers that need weights which the network's file lacks.

    Raises:
        UserError: names them.
    """
    with torch.no_grad():
        outputs = extractor(probe.clone())
    for tap, output in zip(extractor.taps, outputs, strict=True):
        if output.is_floating_point() and bool(output.isnan().any()):
            more = f" and {len(source.lacking) - 1} more" if len(source.lacking) > 1 else ""
            raise UserError(
                f"{_called(tap.module, source.title)} needs {source.lacking[0]!r}{more}, which the given weights lack; "
                "choose a layer that comes before, or give complete weights."
            )
