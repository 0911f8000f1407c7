"""The names in a state dict, as wrappers, trainers and older versions leave them, matched with a network's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from invariances.system.errors import UserError

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What DataParallel, torch.compile, FSDP and activation checkpointing put into names, anywhere."""

_PREFERRED = (
    "model",
    "module",
    "network",
    "net",
    "backbone",
    "encoder_q",
    "base_encoder",
    "online_encoder",
    "online_network",
    "teacher",
    "encoder",
    "ema_model",
)
"""Where a file holds a network twice, as momentum encoders do: which one is meant, by the end of its prefix."""

_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")

_BESIDE = re.compile(
    r"(cls_|aux_|mlp_)?(fc|heads?|classifier|logits?|last_linear|output_layer|n_averaged|mask_token|prototypes?)\b"
    r"|(aux|proj|pred|decode|queue|loss|criterion|contrastive|momentum|ema|neck)\w*",
    re.IGNORECASE,
)
"""Modules that stand behind a network or beside it: heads, projections of self-supervised learning, losses."""


def renamed(
    state: Mapping[str, Any], own: Iterable[str], source: str
) -> tuple[dict[str, Any], list[str], list[str]]:
    """The entries of `state` under a network's own names.

    Args:
        state: values by the names that a file has.
        own: the network's names.
        source: names the file in errors.

    Returns:
        The entries below the prefix that fits best (under the network's names, or their own where the network has no
        such entry), what was done in words, and the names of the entries outside of the prefix.

    Raises:
        UserError: several prefixes fit as well.
    """
    names = list(own)
    if set(names) <= state.keys():
        return dict(state), [], []
    mine = {plain(name): name for name in names}
    if len(mine) < len(names):
        mine = {name: name for name in names}
    prefixes = _prefixes(state, mine)
    prefix, others = _best(prefixes, source)
    inside: dict[str, Any] = {}
    outside = []
    for name, value in state.items():
        rest = name.removeprefix(prefix)
        if not name.startswith(prefix):
            outside.append(name)
            continue
        inside[mine.get(_known(rest, mine) or "", rest)] = value
    said = []
    if prefix:
        beside = f" (and not those below {', '.join(map(repr, others))})" if others else ""
        said.append(f"took the entries below {prefix!r}{beside}")
    inner = {part for name in state for part in name.removeprefix(prefix).split(".")} & _WRAPPERS
    if inner - {part for name in mine.values() for part in name.split(".")}:
        said.append(f"took {', '.join(map(repr, sorted(inner)))} out of the names")
    return inside, said, outside


def plain(name: str) -> str:
    """The name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def beside(name: str, own: Iterable[str], missing: Sequence[str]) -> bool:
    """Whether an entry that the network has no place for belongs to another head, or to what was trained beside it.

    Args:
        name: of the entry.
        own: the network's names.
        missing: those of them that the file lacks.
    """
    own, lacking = set(own), set(missing)
    parts = name.split(".")
    for depth in range(1, len(parts)):
        path = ".".join(parts[:depth]) + "."
        below = {each for each in own if each.startswith(path)}
        if below and below <= lacking:
            return True
    alone = not any(each.split(".")[0] == parts[0] for each in own)
    return alone and _BESIDE.match(name) is not None


def _prefixes(state: Mapping[str, Any], mine: Mapping[str, str]) -> Counter[str]:
    """How many entries each prefix, wrappers at its end included, gives a name that the network has."""
    found: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if parts[start] not in _WRAPPERS and _known(".".join(parts[start:]), mine):
                found["".join(f"{part}." for part in parts[:start])] += 1
    return found


def _known(rest: str, mine: Mapping[str, str]) -> str | None:
    """The plain name that `rest` stands for, where the network has it."""
    name = plain(rest)
    return next((each for each in (rest, name, _DENSENET.sub(r"\1\2", name)) if each in mine), None)


def _best(prefixes: Counter[str], source: str) -> tuple[str, list[str]]:
    """The prefix to take, and others that fit as well."""
    most = max(prefixes.values(), default=0)
    fitting = [prefix for prefix, count in prefixes.items() if count == most]
    if not fitting or "" in fitting:
        return "", []
    if len(fitting) == 1:
        return fitting[0], []

    def rank(prefix: str) -> int:
        last = next(
            (part for part in reversed(prefix.split(".")) if part and part not in _WRAPPERS), "module"
        )
        return _PREFERRED.index(last) if last in _PREFERRED else len(_PREFERRED)

    first, second, *_ = sorted(fitting, key=rank)
    if rank(first) == rank(second):
        shown = ", ".join(map(repr, fitting[:4]))
        raise UserError(f"{source} holds several networks that fit ({shown}); save one of them alone")
    return first, [each for each in fitting if each != first]
