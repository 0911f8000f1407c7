"""A hash of a network: its modules, their code, its weights."""

from __future__ import annotations

import hashlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

_STABLE = frozenset(
    {"torch", "torchvision", "timm", "invariances", "builtins", "abc", "typing", "collections"}
)
"""Packages whose versions and tests answer for their code."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def network_hash(network: nn.Module) -> str:
    """A hash of what the network computes: modules as printed, parameters and buffers, code that is the user's own.

    The code of torch's, torchvision's and timm's modules does not count.
    """
    digest = hashlib.sha256(_ADDRESS.sub("", str(network)).encode())
    state = network.state_dict()
    for name, value in state.items():
        _add(digest, name, value)
    for name, value in network.named_buffers():
        if name not in state:
            _add(digest, f"(unsaved) {name}", value)
    for code in code_of(network):
        digest.update(code.encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Any) -> None:
    """A tensor to the bit, containers item by item, anything else as printed."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            _add(digest, f"{name}.{key}", each)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for number, each in enumerate(value):
            _add(digest, f"{name}.{number}", each)
    elif isinstance(value, Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value.detach().cpu()))
    else:
        digest.update(f"{name} {_ADDRESS.sub('', repr(value))}".encode())


def _bytes(value: Tensor) -> bytes:
    if value.is_quantized:
        return repr(value.qscheme()).encode() + _bytes(value.dequantize())
    value = value.to_dense() if value.layout != torch.strided else value
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def code_of(network: nn.Module) -> Iterable[str]:
    """The code of the network's classes, less those of known packages: source without comments, or bytecode."""
    seen = {each for module in network.modules() for each in type(module).__mro__}
    own = [each for each in seen if each.__module__.partition(".")[0] not in _STABLE]
    for each in sorted(own, key=lambda each: (each.__module__, each.__qualname__)):
        yield f"{each.__qualname__} {_source(each)}"
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            yield str(getattr(module, "code", ""))


def _source(kind: type) -> str:
    try:
        return _without_comments(textwrap.dedent(inspect.getsource(kind)))
    except Exception:  # no file, a changed file, code typed into a terminal
        parts = [value for value in vars(kind).values() if isinstance(value, FunctionType)]
        return " ".join(f"{each.__name__} {_compiled(each.__code__)}" for each in parts)


def _compiled(code: CodeType) -> str:
    """Bytecode, names and constants; of one version of Python only."""
    constants = [
        _compiled(each)
        if isinstance(each, CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{version} {code.co_code.hex()} {code.co_names} {constants}"


def _without_comments(source: str) -> str:
    """The source less comments, blank lines and blanks at the ends of lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(stripped for line in lines if (stripped := line.rstrip()))
