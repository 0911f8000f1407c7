"""Work beside the page: it takes turns, says that it goes on, can be stopped, and is kept for the next rerun."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import streamlit as st
import torch

from invariances.system.machine import cores

T = TypeVar("T")

_KEPT = 6
_THREADS = max(1, cores() // 2)
"""Half of the cores compute, the others serve pages: threads that wait for each other cost more than they bring."""
_LOOK = 0.08


class Turns:
    """A lock that serves in the order of asking, so that a long job lets others in between its parts."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._next, self._served = 0, 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until all who asked before are done."""
        with self._condition:
            mine, self._next = self._next, self._next + 1
            self._condition.wait_for(lambda: self._served == mine)
        torch.set_num_threads(_THREADS)
        try:
            yield
        finally:
            with self._condition:
                self._served += 1
                self._condition.notify_all()


TURNS = Turns()


class _Job(threading.Thread):
    """One piece of work in a thread of its own."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.work = work
        self.result: object = None
        self.error: Exception | None = None
        self.wanted = True

    def run(self) -> None:
        try:
            with TURNS.turn():
                if self.wanted:
                    self.result = self.work()
        except Exception as error:
            self.error = error


def computed(key: Hashable, text: str, work: Callable[[], T]) -> T:
    """What `work` returns, once for each key and visitor; meanwhile the page says `text` and has a stop button.

    Args:
        key: Everything that decides the result.
        text: What is being done.
        work: Touches no page.
    """
    kept: OrderedDict[Hashable, T] = st.session_state.setdefault("kept", OrderedDict())
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    if st.session_state.get("stopped") == key:
        _stopped()
    job = _Job(work)
    job.start()
    slot = st.empty()
    try:
        job.join(_LOOK)
        if job.is_alive():
            _wait(job, slot, text, key)
    except BaseException:
        job.wanted = False
        raise
    slot.empty()
    if job.error is not None:
        raise job.error
    kept[key] = job.result  # type: ignore[assignment]
    while len(kept) > _KEPT:
        kept.popitem(last=False)
    return kept[key]


def _wait(job: _Job, slot: st.delta_generator.DeltaGenerator, text: str, key: Hashable) -> None:
    """Every look at the page lets a click on it be heard."""
    mark = hashlib.sha1(repr(key).encode()).hexdigest()[:8]
    with slot.container(key=f"working-{mark}", horizontal=True, vertical_alignment="center"):
        beat = st.empty()
        st.button("Stop", key=f"stop-{mark}", on_click=stop, args=(key,), icon=":material/stop_circle:")
    while job.is_alive():
        beat.html(f"<span class='inv-spin'></span>{text}")
        job.join(_LOOK)


def stop(key: Hashable) -> None:
    """Remembers that this work is not wanted."""
    st.session_state["stopped"] = key


def _stopped() -> None:
    with st.container(key="working-stopped", horizontal=True, vertical_alignment="center"):
        st.html("Stopped.")
        if st.button("Start again", icon=":material/play_arrow:"):
            st.session_state.pop("stopped", None)
            st.rerun()
    st.stop()
