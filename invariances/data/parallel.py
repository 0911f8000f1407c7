"""The same function over many things on all cores, in order, with a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from invariances.system.machine import cores

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def threads() -> int:
    """How many threads decode or hash at once."""
    return min(32, cores())


def in_parallel(
    function: Callable[[_In], _Out], items: Sequence[_In], name: str, progress: bool
) -> Iterator[_Out]:
    """`map` in order on all cores, for functions that release the interpreter lock; a bar after two seconds."""
    block = 16 * threads()
    with (
        ThreadPoolExecutor(threads()) as pool,
        tqdm(total=len(items), desc=name, unit="img", delay=2, disable=not progress, file=sys.stderr) as bar,
    ):
        for start in range(0, len(items), block):
            for result in pool.map(function, items[start : start + block]):
                yield result
                bar.update()
