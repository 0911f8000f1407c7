"""The outputs of named modules in one pass: torchvision's feature extraction first, forward hooks where it fails.

An `Extractor` is built once for a set of taps and checked on a probe: hooks say what a module returned, so a traced
graph is kept only where it gives the same. That refuses graphs in which tracing fixed a branch, dropped an in-place
operation, or mixed up two nodes of similar names. Both ways stop at the last tap, and hand out copies where the pass
goes on, so that an in-place activation after a tap cannot change it. Inputs whose memory is laid out channels-last are
faster in many networks; a network that objects, or answers otherwise, gets them as it takes them.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError

_SAME = 1e-4
"""Difference between a traced graph and the network: the same kernels in the same order."""

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
        probe: inputs to check the traced graph with.

    Raises:
        UserError: where a tap is not reached, or holds no tensor.
    """

    def __init__(self, network: nn.Module, taps: Sequence[Tap], probe: Tensor) -> None:
        self.network, self.taps = network, tuple(taps)
        self._graph: nn.Module | None = None
        self._probe = probe
        self._channels_last: bool | None = None
        with torch.no_grad():
            truth = self.by_hooks(probe)
            graph = _trace(network, self.taps)
            if graph is not None and _agrees(lambda inputs: _in_order(graph(inputs)), probe, truth, _SAME):
                self._graph = graph

    @property
    def method(self) -> str:
        """'graph' or 'hooks'."""
        return "hooks" if self._graph is None else "graph"

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for network inputs (N, C, H, W)."""
        if not inputs.is_contiguous():
            channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
            inputs = inputs if channels_last and self.takes_channels_last() else inputs.contiguous()
        return self._run(inputs)

    def takes_channels_last(self) -> bool:
        """Whether the network answers as it should where its input's memory is laid out channels-last; tried once."""
        if self._channels_last is None:
            with torch.no_grad(), redirect_stderr(io.StringIO()):  # a graph that fails prints its trace
                turned = self._probe.contiguous(memory_format=torch.channels_last)
                truth = self._run(self._probe.clone())
                self._channels_last = _agrees(
                    self._run, turned.clone(), truth, max(tolerance(each) for each in truth)
                )
        return self._channels_last

    def _run(self, inputs: Tensor) -> list[Tensor]:
        if self._graph is None:
            return self.by_hooks(inputs)
        return _in_order(self._graph(inputs))

    def by_hooks(self, inputs: Tensor) -> list[Tensor]:
        """The outputs as hooks see them, whether or not there is a graph."""
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


class _Ended(nn.Module):
    """The network with a named end, so that its output is a node like every other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.end = nn.Identity()

    def forward(self, inputs: Tensor) -> Any:
        return self.end(self.network(inputs))


def _trace(network: nn.Module, taps: Sequence[Tap]) -> nn.Module | None:
    """The feature extractor of torchvision for these taps; None where the network cannot be traced."""
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = {}
    for number, tap in enumerate(taps):
        repeat = (
            f"_{tap.call - 1}" if tap.call > 1 else ""
        )  # how torchvision names the later calls of a module
        nodes[f"network.{tap.module}{repeat}" if tap.module else "end"] = str(number)
    # Tracing switches to train mode and back: let it do so on other modules, which share the weights.
    weights: dict[int, Any] = {id(each): each for each in (*network.parameters(), *network.buffers())}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = create_feature_extractor(
                _Ended(copy.deepcopy(network, weights)),
                train_return_nodes={"end": "end"},
                eval_return_nodes=nodes,
                suppress_diff_warning=True,
            ).eval()
        (end,) = (node for node in module.graph.nodes if node.op == "output")
        outputs = dict(end.args[0])
        *_, last, _ = module.graph.nodes
        for key, node in outputs.items():
            with module.graph.inserting_after(node):
                outputs[key] = module.graph.call_function(first_tensor if node is last else _copied, (node,))
        end.args = (outputs,)
        module.recompile()
    except Exception:  # whatever an arbitrary network does under symbolic values
        return None
    return module if len(outputs) == len(taps) else None


def _in_order(outputs: Mapping[str, Tensor]) -> list[Tensor]:
    return [outputs[str(number)] for number in range(len(outputs))]


def _agrees(
    run: Callable[[Tensor], list[Tensor]], inputs: Tensor, truth: Sequence[Tensor], most: float
) -> bool:
    """Whether a way to run the network gives the truth, with differences of at most `most`."""
    try:
        outputs = run(inputs)
    except Exception:  # a way that fails where the network did not
        return False
    return all(
        mine.shape == true.shape and difference(mine, true) <= most
        for mine, true in zip(outputs, truth, strict=True)
    )


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
