"""One file from the web, whole and verified, or a sentence that says how to get it by hand.

A download goes to `FILE.part` and continues there when it is cut off (HTTP Range; where a server answers 200
instead of 206, it starts again). The checksum is computed while the bytes stream, and only a file that has it
gets its name. A lock beside it lets two processes fetch once. `FILE.verified` remembers that a file was
checked, by its size and modification time. Names from a server are never used as paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, build_opener

from invariances.system.errors import NotHere, UserError
from invariances.system.files import offline

CHUNK = 1 << 20
Told = Callable[[int, int | None], None]
"""Hears the bytes that are there, and those of the whole where they are known; may raise, which ends the transfer."""
OFFLINE = "INVARIANCES_OFFLINE is set"
_MENDABLE_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _Mendable(Exception):
    """The transfer failed in a way that another attempt may mend."""


def download(
    address: str,
    target: str | os.PathLike[str],
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool | Told = True,
    attempts: int = 5,
    backoff: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """The file at `target`, fetched from `address` unless it is there, and verified once.

    Proxies are those of the environment (`HTTPS_PROXY` and the like).

    Args:
        address: http or https.
        target: where the file goes, name included; folders are made.
        md5: checksum, hexadecimal.
        sha256: checksum, or its beginning.
        size: expected bytes, for the progress bar where the server does not say.
        progress: a bar with size and time left, on stderr; or what hears of each piece instead.
        attempts: tries before giving up, each going on where the last stopped.
        backoff: seconds before the second try; doubles with each.
        timeout: seconds without a byte after which a try is given up.

    Returns:
        The path.

    Raises:
        NotHere: it cannot be had; says what to put where by hand.
        UserError: it cannot be written or verified.
    """
    if not address.startswith(("http://", "https://")):
        raise UserError(f"{address!r} is no http(s) address; give one.")
    target = Path(target)
    what = f"file {address} with {_checksum(md5, sha256)}"
    by_hand = f"put the {what} into the folder {target.parent} by hand, under the name {target.name}"
    if verified(target, md5, sha256):
        return target
    if not target.exists() and offline():
        raise _forbidden(target, by_hand)
    try:
        with _locked(target):
            if not target.exists():
                if offline():
                    raise _forbidden(target, by_hand)
                _fetch(address, target, md5, sha256, size, progress, attempts, backoff, timeout, by_hand)
            elif not verified(target, md5, sha256) and not verify(target, md5, sha256):
                raise UserError(
                    f"{target} has not the expected {_checksum(md5, sha256)}; delete it and run again, or {by_hand}."
                )
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}); {by_hand}.") from error
    return target


def _forbidden(target: Path, by_hand: str) -> NotHere:
    return NotHere(f"{target.name} is not here, and {OFFLINE}; {by_hand}.", OFFLINE)


def verify(path: Path, md5: str | None = None, sha256: str | None = None) -> bool:
    """Whether the file has its checksum, read anew; a yes is remembered. True where no checksum is known."""
    digests = _digests()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    return _matches(digests, md5, sha256) and _remember(path, md5, sha256)


def verified(path: Path, md5: str | None = None, sha256: str | None = None) -> bool:
    """Whether the file, as it is now, was verified before."""
    try:
        record = json.loads(_note(path).read_text(encoding="utf-8"))
        return bool(record == _record(path, md5, sha256))
    except (OSError, ValueError):
        return False


def _fetch(
    address: str,
    target: Path,
    md5: str | None,
    sha256: str | None,
    size: int | None,
    progress: bool | Told,
    attempts: int,
    backoff: float,
    timeout: float,
    by_hand: str,
) -> None:
    part = target.with_name(target.name + ".part")
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(60.0, backoff * 2 ** (attempt - 1)))
        try:
            digests = _transfer(address, part, size, progress, timeout)
        except _Mendable as error:
            problem = str(error)
            continue
        except HTTPError as error:
            reason = f"{address} answers {error.code} ({error.reason}); the link may be dead"
            raise NotHere(f"{reason}: {by_hand}.", reason) from error
        if _matches(digests, md5, sha256):
            part.replace(target)
            _remember(target, md5, sha256)
            return
        problem = f"what arrived has not the expected {_checksum(md5, sha256)}"
        part.unlink()  # it may have been an older part that spoilt it
    reason = f"{address} could not be fetched in {attempts} tries ({problem})"
    raise NotHere(f"{reason}; {by_hand}.", reason)


def _transfer(
    address: str, part: Path, size: int | None, progress: bool | Told, timeout: float
) -> dict[str, Any]:
    """Complete `part` from where it stops; the digests of the whole."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "invariances", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        opener = build_opener()  # anew, so that the proxies are those of the environment now
        response: HTTPResponse = opener.open(Request(address, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:  # the part is no beginning of this file
            part.unlink(missing_ok=True)
            raise _Mendable("the server refused to continue") from error
        if error.code in _MENDABLE_STATUS:
            raise _Mendable(f"{error.code} {error.reason}") from error
        raise
    except (OSError, HTTPException) as error:
        raise _Mendable(_reason(error)) from error
    with response:
        if start and not _continues(response, start):
            start = 0
        announced = response.headers.get("Content-Length")
        total = start + int(announced) if announced and announced.isdigit() else None
        digests = _digests()
        with part.open("r+b" if start else "wb") as file:
            for chunk in _chunks(file, start):
                for digest in digests.values():
                    digest.update(chunk)
            _stream(response, file, digests, part.name, start, total or size, progress)
            arrived = file.tell()
    if total is not None and arrived < total:
        raise _Mendable(f"the connection ended after {arrived:,} of {total:,} bytes")
    return digests


def _continues(response: HTTPResponse, start: int) -> bool:
    wanted = f"bytes {start}-"
    return response.status == 206 and response.headers.get("Content-Range", "").startswith(wanted)


def _chunks(file: IO[bytes], end: int) -> Iterator[bytes]:
    while file.tell() < end:
        chunk = file.read(min(CHUNK, end - file.tell()))
        if not chunk:
            return
        yield chunk


def _stream(
    response: HTTPResponse,
    file: IO[bytes],
    digests: dict[str, Any],
    name: str,
    start: int,
    total: int | None,
    progress: bool | Told,
) -> None:
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=name.removesuffix(".part"),
        disable=progress is not True,
        leave=False,
    )
    with bar:
        while True:
            try:
                chunk = response.read1(CHUNK)
            except (OSError, HTTPException) as error:
                raise _Mendable(_reason(error)) from error
            if not chunk:
                return
            file.write(chunk)
            for digest in digests.values():
                digest.update(chunk)
            bar.update(len(chunk))
            if callable(progress):
                progress(file.tell(), total)


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    return str(inner or error) or type(error).__name__


def _digests() -> dict[str, Any]:
    return {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}


def _matches(digests: dict[str, Any], md5: str | None, sha256: str | None) -> bool:
    return (md5 is None or digests["md5"].hexdigest() == md5.lower()) and (
        sha256 is None or digests["sha256"].hexdigest().startswith(sha256.lower())
    )


def _checksum(md5: str | None, sha256: str | None) -> str:
    if md5:
        return f"MD5 {md5}"
    return f"SHA-256 {sha256}…" if sha256 else "no known checksum"


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _record(path: Path, md5: str | None, sha256: str | None) -> dict[str, Any]:
    state = path.stat()
    return {"size": state.st_size, "modified": state.st_mtime_ns, "md5": md5, "sha256": sha256}


def _remember(path: Path, md5: str | None, sha256: str | None) -> bool:
    with suppress(OSError):  # a folder that cannot be written to is only verified each time
        _note(path).write_text(json.dumps(_record(path, md5, sha256)), encoding="utf-8")
    return True


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    from filelock import FileLock

    if target.exists() and not os.access(target.parent, os.W_OK):
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        yield
