"""The controls that pages share: a row of three, and the rest behind "More"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from invariances.app import models


@contextmanager
def more() -> Iterator[None]:
    """A place for what most visitors leave alone."""
    with st.popover("More", icon=":material/tune:", key="more", width="stretch"):
        yield


def seed() -> int:
    """The number that decides all draws."""
    return int(st.number_input("Seed", 0, 2**31 - 1, 0, key="seed", bind="query-params", help=_SEED))


_SEED = "The same seed gives the same pictures, to the last pixel."


def resample() -> None:
    """A button that takes the next seed."""
    st.button(
        "Resample",
        icon=":material/casino:",
        on_click=_next_seed,
        type="primary",
        width="stretch",
        key="resample",
    )


def _next_seed() -> None:
    st.session_state["seed"] = (int(st.session_state.get("seed", 0)) + 1) % 2**31


def count(least: int, most: int, default: int) -> int:
    """How many samples."""
    return int(st.slider("Samples", least, most, default, key="samples", bind="query-params"))


def temperature() -> float:
    """How daring samples are."""
    return float(
        st.slider(
            "Temperature", 0.0, 1.5, 1.0, 0.05, key="temperature", bind="query-params", help=_TEMPERATURE
        )
    )


_TEMPERATURE = "1 gives true samples, lower ones show less variety, 0 a single typical picture."


def device() -> str:
    """Where to compute, where there is a choice."""
    return models.choose_device()
