"""Resumable HTTP download of one catalogued file, verified before it gets its final name."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import lipsync
from lipsync.checkpoints import formats
from lipsync.checkpoints.catalog import CheckpointSpec
from lipsync.errors import CheckpointError

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""``(name, bytes so far, bytes in total or None)``."""

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte."""
ATTEMPTS = 5
"""Connections in a row that bring nothing before an address is given up."""
PAUSE = 1.0
"""Seconds before connecting again, times the connections that brought nothing."""

_BROKEN = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class _FetchError(Exception):
    """An address did not give the file; the message says why."""


def fetch(spec: CheckpointSpec, path: Path, progress: Progress | None = None) -> None:
    """Downloads ``spec`` to ``path``, going on where an interrupted download (``.part``) stopped.

    Raises:
        CheckpointError: No address gives the file; says where to find it and where to put it.
    """
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in spec.urls:
        try:
            _fetch_verified(url, spec, part, progress)
        except _FetchError as error:
            reasons.append(f"{url}: {error}")
        else:
            part.replace(path)
            return
    raise CheckpointError(
        f"{spec.name}: cannot be downloaded ({'; '.join(reasons)}); "
        f"get it from {spec.page} and put it at {path}"
    )


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file against other processes; waits for its turn."""
    with path.open("a") as stream:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch_verified(url: str, spec: CheckpointSpec, part: Path, progress: Progress | None) -> None:
    """Downloads until the hash is right; a resumed file that is wrong is fetched once more from the start."""
    resumed = part.exists()
    _fetch_all(url, spec, part, progress)
    reason = _why_wrong(spec, part)
    if reason is not None and resumed:
        part.unlink()
        _fetch_all(url, spec, part, progress)
        reason = _why_wrong(spec, part)
    if reason is not None:
        part.unlink()
        raise _FetchError(reason)


def _why_wrong(spec: CheckpointSpec, part: Path) -> str | None:
    with part.open("rb") as stream:
        reason = formats.why_not_weights(stream.read(256))
    if reason is not None:
        return reason.split(";")[0]
    if spec.sha256 is not None and formats.sha256_of(part) != spec.sha256:
        return f"gives other bytes than the known {spec.filename} (SHA-256 differs)"
    return None


def _fetch_all(url: str, spec: CheckpointSpec, part: Path, progress: Progress | None) -> None:
    """Connects again as long as bytes come, at most :data:`ATTEMPTS` times without any."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            total = _fetch_rest(url, spec, part, progress)
        except urllib.error.HTTPError as error:
            with error:
                raise _FetchError(f"HTTP {error.code} {error.reason}") from error
        except _BROKEN as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
            if isinstance(error, urllib.error.URLError) and _size(part) == before:
                raise _FetchError(reason) from error
        else:
            if total is None or _size(part) >= total:
                return
            reason = "the connection broke"
        fruitless = 0 if _size(part) > before else fruitless + 1
        if fruitless == ATTEMPTS:
            raise _FetchError(reason)
        time.sleep(PAUSE * fruitless)


def _fetch_rest(url: str, spec: CheckpointSpec, part: Path, progress: Progress | None) -> int | None:
    """One connection: appends what is missing from ``part``; returns the size of the whole file."""
    start = _size(part)
    headers = {"User-Agent": f"lipsync/{lipsync.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if not url.startswith(("https://", "http://")):
        raise _FetchError("is not a web address")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the scheme is checked above)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 (the scheme is checked above)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return _after_range_refusal(error, part, start)
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise _FetchError("gives a web page instead of the file")
        begin, total = _span(response, start)
        with part.open("r+b" if begin else "wb") as stream:
            stream.truncate(begin)
            stream.seek(begin)
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                begin += len(chunk)
                if progress is not None:
                    progress(spec.name, begin, total or spec.size)
    return total


def _after_range_refusal(error: urllib.error.HTTPError, part: Path, start: int) -> int:
    """The server has nothing after ``start``: the file is complete, or ``part`` is of something else."""
    with error:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
    if total is None or int(total[1]) != start:
        part.unlink()
    return start


def _span(response: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and the file's size if told; servers may ignore the range."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if told is None or int(told[1]) != start:
            raise _FetchError("answers with another range than asked for")
        return start, None if told[2] == "*" else int(told[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
