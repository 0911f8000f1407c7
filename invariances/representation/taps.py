"""The outputs of named modules in one pass: torchvision's feature extraction first, forward hooks where it fails.

An `Extractor` is built once for a set of taps and checked on a probe: hooks say what a module returned, so a traced
graph is kept only where it gives the same. That refuses graphs in which tracing fixed a branch, dropped an in-place
operation, or mixed up two nodes of similar names. Both ways stop at the last tap, and hand out copies where the pass
goes on, so that an in-place activation after a tap cannot change it.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invariances.system.errors import UserError

_HOOKS = threading.RLock()  # hooks hang on a shared network, so passes with hooks take turns


@dataclass(frozen=True)
class Tap:
    """The output of one call of one module: `module` as `named_modules` prints it, `call` from 1.

    The module "" is the network itself, its output the network's.
    """

    module: str
    call: int = 1


class _Done(BaseException):
    """Ends a pass at its last tap. Not an Exception, so that no network's own `except` swallows it."""


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a module's output: itself, `logits` or `out` of a mapping, else the first one found."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        preferred = [output[key] for key in ("logits", "out") if key in output]
        return first_tensor([*preferred, *output.values()])
    if isinstance(output, Sequence) and not isinstance(output, str):
        return next((found for found in map(first_tensor, output) if found is not None), None)
    return None


def _copied(output: Any) -> Tensor | None:
    tensor = first_tensor(output)
    return None if tensor is None else tensor.clone()


def calls_of(network: nn.Module, inputs: Tensor) -> dict[Tap, torch.Size | None]:
    """The shape that each call of each named module gives, in the order in which they end; None: no tensor."""
    calls: Counter[str] = Counter()
    shapes: dict[Tap, torch.Size | None] = {}

    def note(name: str, output: Any) -> None:
        calls[name] += 1
        tensor = first_tensor(output)
        shapes[Tap(name, calls[name])] = None if tensor is None else tensor.shape

    with torch.no_grad():
        _run_with_hooks(network, inputs, [name for name, _ in network.named_modules()], note)
    return shapes


def _run_with_hooks(
    network: nn.Module, inputs: Tensor, names: Iterable[str], note: Callable[[str, Any], None]
) -> None:
    """Run the network with `note(name, output)` after each call of these modules, up to where a note is done."""
    handles = []
    with _HOOKS:
        try:
            for name in dict.fromkeys(names):

                def hook(module: nn.Module, arguments: Any, output: Any, name: str = name) -> None:
                    note(name, output)

                handles.append(network.get_submodule(name).register_forward_hook(hook))
            network(inputs)
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
        with torch.no_grad():
            truth = self._by_hooks(probe)
            graph = _trace(network, self.taps)
            if graph is not None and _agrees(graph, probe, truth):
                self._graph = graph

    @property
    def method(self) -> str:
        """'graph' or 'hooks'."""
        return "hooks" if self._graph is None else "graph"

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """The outputs for network inputs (N, 3, H, W)."""
        if self._graph is None:
            return self._by_hooks(inputs)
        return _in_order(self._graph(inputs))

    def _by_hooks(self, inputs: Tensor) -> list[Tensor]:
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


def _agrees(graph: nn.Module, probe: Tensor, truth: Sequence[Tensor]) -> bool:
    try:
        outputs = _in_order(graph(probe))
    except Exception:  # a graph that fails where the network did not
        return False
    return all(map(_close, outputs, truth))


def _close(mine: Tensor, true: Tensor) -> bool:
    if mine.shape != true.shape:
        return False
    return bool(((mine - true).abs() <= 1e-4 * true.abs().max()).all()) if true.numel() else True
