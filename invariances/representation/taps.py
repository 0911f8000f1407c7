"""The outputs of named modules in one pass, by forward hooks: what the modules returned, whatever the network does.

A pass stops at the last tap, and hands out copies where it goes on, so that an in-place activation after a tap cannot
change it. Inputs whose memory is laid out channels-last are faster in many networks; a network that objects, or answers
otherwise, gets them as it takes them.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError

_HOOKS = threading.RLock()  # hooks hang on a shared network, so passes with hooks take turns


@dataclasses.dataclass(frozen=True)
class Tap:
    """The output of one call of one module: `module` as `named_modules` prints it, `call` from 1.

    The module "" is the network itself, its output the network's.
    """

    module: str
    call: int = 1


END = Tap("")
"""The network's own output."""


class _Done(BaseException):
    """Ends a pass at its last tap. Not an Exception, so that no network's own `except` swallows it."""


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a module's output: itself, `logits` or `out` of a mapping, else the first one found."""
    if isinstance(output, Tensor):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = {each.name: getattr(output, each.name) for each in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        preferred = [output[key] for key in ("logits", "out") if key in output]
        return first_tensor([*preferred, *output.values()])
    if isinstance(output, Sequence) and not isinstance(output, str):
        return next((found for found in map(first_tensor, output) if found is not None), None)
    return None


def _copied(output: Any) -> Tensor | None:
    tensor = first_tensor(output)
    return None if tensor is None else tensor.clone()


def calls_of(network: nn.Module, inputs: Tensor) -> dict[Tap, Tensor | str]:
    """What each call of each named module gives, in the order in which they end: a tensor without values, or a fault.

    Faults are in words.
    """
    calls: Counter[str] = Counter()
    found: dict[Tap, Tensor | str] = {}

    def note(name: str, output: Any) -> None:
        calls[name] += 1
        found[Tap(name, calls[name])] = _described(first_tensor(output))

    with torch.no_grad():
        _run_with_hooks(network, inputs, [name for name, _ in network.named_modules()], note)
    return found


def _described(output: Tensor | None) -> Tensor | str:
    """A tensor of the same shape and dtype on the meta device, or what keeps this one from being a representation."""
    if output is None:
        return "gives no tensor"
    if output.is_nested:
        return "gives a nested tensor, whose rows have sizes of their own"
    if output.is_meta:
        return "gives a tensor on the meta device, where nothing has values"
    if output.layout != torch.strided:
        return f"gives a sparse tensor of shape {tuple(output.shape)}"
    if not output.numel():
        return f"gives nothing: its shape is {tuple(output.shape)}"
    dtype = torch.float32 if output.is_quantized else output.dtype
    return torch.empty(output.shape, dtype=dtype, device="meta")


def _run_with_hooks(
    network: nn.Module, inputs: Tensor, names: Iterable[str], note: Callable[[str, Any], None]
) -> None:
    """Run the network with `note(name, output)` after each call of these modules, up to where a note is done."""
    handles = []
    names, modules = list(dict.fromkeys(names)), dict(network.named_modules())
    with _HOOKS:
        try:
            for name in names:

                def hook(module: nn.Module, arguments: Any, output: Any, name: str = name) -> None:
                    note(name, output)

                if not isinstance(
                    modules[name], torch.jit.ScriptModule
                ):  # which run as a whole, without hooks
                    handles.append(modules[name].register_forward_hook(hook))
            output = network(inputs)
            if isinstance(network, torch.jit.ScriptModule) and "" in names:
                note("", output)
        except _Done:
            pass
        finally:
            for handle in handles:
                handle.remove()


class Extractor:
    """inputs -> the output of each tap, in one pass that goes no further than it needs to.

    Args:
        network: in eval mode.
        taps: which calls of which modules.
        probe: inputs to try channels-last with.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap], probe: Tensor) -> None:
        self.network, self.taps = network, tuple(taps)
        self._probe = probe
        self._channels_last: bool | None = None

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for network inputs (N, C, H, W).

        Raises:
            UserError: where a tap is not reached, or holds no tensor.
        """
        if not inputs.is_contiguous():
            channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
            inputs = inputs if channels_last and self.takes_channels_last() else inputs.contiguous()
        return self._run(inputs)

    def takes_channels_last(self) -> bool:
        """Whether the network answers as it should where its input's memory is laid out channels-last; tried once."""
        if self._channels_last is None:
            with torch.no_grad():
                truth = self._run(self._probe.clone())
                most = max(tolerance(each) for each in truth)
                turned = self._probe.contiguous(memory_format=torch.channels_last)
                try:
                    found = self._run(turned.clone())
                except Exception:  # whatever an arbitrary network raises
                    self._channels_last = False
                else:
                    self._channels_last = all(
                        mine.shape == true.shape and difference(mine, true) <= most
                        for mine, true in zip(found, truth, strict=True)
                    )
        return self._channels_last

    def _run(self, inputs: Tensor) -> list[Tensor]:
        found: dict[Tap, Tensor | None] = {}
        calls: Counter[str] = Counter()

        def note(name: str, output: Any) -> None:
            calls[name] += 1
            tap = Tap(name, calls[name])
            if tap in self.taps:
                last = len(found) + 1 == len(self.taps)
                found[tap] = first_tensor(output) if last else _copied(output)
                if last:
                    raise _Done

        _run_with_hooks(self.network, inputs, [tap.module for tap in self.taps], note)
        outputs = []
        for tap in self.taps:
            tensor = found.get(tap)
            if tensor is None:
                raise UserError(
                    f"layer {tap.module!r} gave no tensor in its call {tap.call}: the network did not come to it, or "
                    "its output is no tensor; choose another layer."
                )
            outputs.append(tensor)
        return outputs


def difference(mine: Tensor, true: Tensor) -> float:
    """The largest |mine - true| as a share of the largest |true|; NaN where one of them has NaN."""
    mine, true = (
        (each.dequantize() if each.is_quantized else each).detach().to(torch.complex64)
        for each in (mine, true)
    )
    if not true.numel():
        return 0.0
    largest, apart = float(true.abs().max()), float((mine - true).abs().max())
    return apart / largest if largest or apart != apart else float(apart > 0)


def tolerance(output: Tensor, coarse: bool = False) -> float:
    """The difference that is no matter: other kernels and batches round otherwise, and features are kept as float16.

    Args:
        output: of a layer.
        coarse: whether rounding is that of 8 bits.
    """
    coarse = coarse or output.dtype in (torch.float16, torch.bfloat16) or output.is_quantized
    return 2e-2 if coarse or output.device.type != "cpu" else 1e-3
