"""One file over BitTorrent, whole or not there, by libtorrent where it is installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from invariances.data.download import OFFLINE
from invariances.data.published.root import say
from invariances.system.errors import NotHere, UserError
from invariances.system.files import offline

PATIENCE = 600.0
"""Seconds without a new byte after which a download is given up."""

_TRACKERS = ("https://academictorrents.com/announce.php", "udp://tracker.opentrackr.org:1337/announce")
_SETTINGS = {"user_agent": "invariances", "listen_interfaces": "0.0.0.0:6881,[::]:6881"}
_PEERS: Sequence[tuple[str, int]] = ()
_STEP = 0.5


def fetch(infohash: str, target: Path, size: int, other_way: str, progress: bool = True) -> Path:
    """Fetches the only file of a torrent to `target`; what was fetched before is not fetched again.

    Args:
        infohash: Of the torrent, hexadecimal.
        target: The file; parts lie in a folder beside it until it is whole.
        size: Bytes it must have.
        other_way: What to do instead, for the end of sentences.
        progress: A bar with bytes, peers and rate on stderr.

    Raises:
        NotHere: libtorrent is not installed, the network is forbidden, or nothing came for ten minutes.
        UserError: What came has another size.
    """
    if offline():
        raise NotHere(f"{target.name} is not here, and {OFFLINE}; {other_way}", OFFLINE)
    try:
        import libtorrent
    except ImportError:
        reason = "BitTorrent needs `pip install 'invariances[torrent]'`"
        raise NotHere(
            f"{target.name} ({size / 1e9:.0f} GB) is not here: {reason}; or {other_way}", reason
        ) from None
    say(
        f"{target.name} ({size / 1e9:.0f} GB) is fetched over BitTorrent to {target.parent}; it may be stopped"
    )
    parts = target.with_name(f".{target.name}.torrent")
    parts.mkdir(parents=True, exist_ok=True)
    session: Any = libtorrent.session(cast(Any, dict(_SETTINGS)))
    wanted = libtorrent.parse_magnet_uri(f"magnet:?xt=urn:btih:{infohash}")
    wanted.trackers = list(_TRACKERS) if not _PEERS else []
    wanted.save_path = str(parts)
    handle = session.add_torrent(wanted)
    for peer in _PEERS:
        handle.connect_peer(peer)
    try:
        _wait(handle, target.name, size, other_way, progress)
        found = handle.torrent_file()
        files = (
            found.layout() if hasattr(found, "layout") else found.files()
        )  # the name changed in libtorrent 2.1
        place, count = parts / files.file_path(0), files.num_files()
    finally:
        session.remove_torrent(handle)
        del session
    if count != 1 or not place.resolve().is_relative_to(parts.resolve()) or place.stat().st_size != size:
        raise UserError(
            f"torrent {infohash} holds {count} files, the first of {place.stat().st_size:,} bytes, and one of {size:,} "
            f"was expected; {other_way}"
        )
    place.replace(target)
    _remove(parts)
    return target


def _wait(handle: Any, name: str, size: int, other_way: str, progress: bool) -> None:
    """Until the torrent is whole."""
    last, since = -1, time.monotonic()
    with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=not progress, file=sys.stderr) as bar:
        while not handle.is_valid() or not handle.status().is_seeding:
            status = handle.status()
            if status.errc.value():
                raise UserError(
                    f"{name} cannot be fetched over BitTorrent ({status.errc.message()}); {other_way}"
                )
            done = status.total_wanted_done
            bar.n = done
            bar.set_postfix_str(
                f"{status.num_peers} peers, {status.download_rate / 1e6:.1f} MB/s", refresh=False
            )
            bar.refresh()
            checking = str(status.state).startswith("checking")
            if done != last or checking:
                last, since = done, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                reason = (
                    f"nothing came over BitTorrent for {PATIENCE / 60:.0f} minutes ({status.num_peers} peers, "
                    f"{max(done, 0):,} of {size:,} bytes are here and are kept)"
                )
                raise NotHere(f"{name}: {reason}; {other_way}", reason)
            time.sleep(_STEP)
        bar.n = size


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
