"""Reception of a file's body: resumed after failures, limited in size."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from turbopilot.base.atomic import check_disk
from turbopilot.base.errors import DownloadError
from turbopilot.hub.client import Retries
from turbopilot.hub.response import opened
from turbopilot.hub.safe_files import open_part

_MOST_UNSTATED = 1 << 30  # bytes of a file whose size neither the listing nor the response states


def fetch_body(
    url: str, part: Path, n_bytes: int, report: Callable[[int], None], *, resume: bool
) -> None:
    """Receive a file, with retries, and sync it to disk.

    Args:
        url: address at the Hub.
        part: file to write to.
        n_bytes: size of the file; 0 if it is unknown, so that the response's Content-Length is the limit.
        report: called with the bytes received so far.
        resume: whether to append to what `part` has; else it is overwritten.
    """
    retries = Retries(network=True)
    with open_part(part) as f:
        if not resume or f.tell() > n_bytes:
            f.truncate(0)
        complete = n_bytes > 0 and f.seek(0, os.SEEK_END) == n_bytes
        while not complete:
            if not n_bytes:
                f.truncate(0)
            begun = f.seek(0, os.SEEK_END)
            try:
                most = _receive(url, f, n_bytes, part, report)
                complete = not n_bytes or f.tell() == most
                if f.tell() == begun and not complete:
                    raise ConnectionError("the response has no body")
            except Exception as e:
                if n_bytes and f.tell() > begun:
                    retries.failed = 0
                retries.wait(e)
        f.flush()
        os.fsync(f.fileno())


def _receive(url: str, f: BinaryIO, n_bytes: int, part: Path, report: Callable[[int], None]) -> int:
    """Append the body of a response to `f`, and return the file's size as listed or stated by the response."""
    from huggingface_hub import constants

    begin = f.tell()
    headers = {"Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with opened(url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        span = response.headers.get("Content-Range", "")
        if begin and not (response.status_code == 206 and span.startswith(f"bytes {begin}-")):
            f.seek(0)  # the server ignores ranges and sends the whole file, or sends another range
            f.truncate()
            if response.status_code == 206:
                raise ConnectionError(f"requested bytes from {begin}, received {span!r:.80}")
        most = n_bytes or _stated_size(response.headers, part)
        report(f.tell())
        for piece in response.iter_bytes():
            if f.tell() + len(piece) > most:
                stated = "that the Hub lists" if n_bytes else "that it stated or that are allowed"
                raise DownloadError(
                    f"{url}: the server sent more than the {most:,} bytes {stated}",
                    hint="if HF_ENDPOINT names a mirror, try without it",
                )
            f.write(piece)
            report(f.tell())
    return most


def _stated_size(headers: Mapping[str, str], part: Path) -> int:
    """Return the size that a response states for its body; raise NotEnoughDisk if so much is not free."""
    stated = headers.get("Content-Length", "")
    if "Content-Encoding" in headers or not re.fullmatch("[0-9]{1,18}", stated):
        return _MOST_UNSTATED
    check_disk(part.parent, int(stated), "free some space, or choose another folder with --to")
    return int(stated)
