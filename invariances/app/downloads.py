"""What has to be fetched first, fetched in the page: size, progress, stop, failure and another try."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import streamlit as st

from invariances import zoo
from invariances.app.models import label
from invariances.system.errors import UserError
from invariances.system.files import offline
from invariances.zoo.interpreters import find_offer

_LOOK = 0.2


def ensure_here(network: str, layers: Sequence[str]) -> None:
    """Ends the page until everything is there that the layers' interpreters need."""
    missing = dict.fromkeys(
        name
        for layer in layers
        for name in find_offer(network, layer).files
        if not zoo.path(name).is_file() and "package" not in zoo.entry(name)
    )
    if not missing:
        return
    sizes = [zoo.entry(name).get("size") for name in missing]
    amount = "" if None in sizes else f", {_megabytes(sum(filter(None, sizes)))}"
    with st.container(border=True, key="download"):
        st.markdown(f"**{label(network)}** is not on this machine yet.")
        count = f"{len(missing)} file{'s' if len(missing) > 1 else ''}"
        st.caption(f"{count}{amount or ', some hundred MB'}: {', '.join(missing)}")
        if offline():
            st.info("Downloads are switched off here (INVARIANCES_OFFLINE).", icon=":material/cloud_off:")
        elif st.button("Download", icon=":material/download:", type="primary"):
            _fetch_all(list(missing))
    st.stop()


class _Stopped(Exception):
    """The visitor does not want it any more."""


class _Transfer(threading.Thread):
    """One file on its way."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.file = name
        self.wanted, self.failed = True, False
        self.got, self.total = 0, zoo.entry(name).get("size")

    def run(self) -> None:
        try:
            zoo.fetch(self.file, self._told)
        except (UserError, _Stopped):
            self.failed = True

    def _told(self, got: int, total: int | None) -> None:
        if not self.wanted:
            raise _Stopped
        self.got, self.total = got, total or self.total

    def progress(self) -> tuple[float, str]:
        """The share that is there, and in words."""
        of = f" of {_megabytes(self.total)}" if self.total else ""
        return min(1.0, self.got / self.total) if self.total else 0.0, f"{_megabytes(self.got)}{of}"


def _fetch_all(names: list[str]) -> None:
    """A stop, or any other click, ends the transfer; what is there is kept as a part, and the next try goes on."""
    slot = st.empty()
    st.button("Stop", key="stop-download", icon=":material/stop_circle:")
    for number, name in enumerate(names):
        transfer = _Transfer(name)
        transfer.start()
        try:
            while transfer.is_alive():
                share, amount = transfer.progress()
                slot.progress(share, f"File {number + 1} of {len(names)}, {name}: {amount}")
                transfer.join(_LOOK)
        finally:
            transfer.wanted = False
        if transfer.failed:
            slot.error(f"{name} could not be fetched; check the connection, and press Download to try again.")
            st.stop()
    st.rerun()


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e7 else f"{count / 1e6:,.0f} MB"
