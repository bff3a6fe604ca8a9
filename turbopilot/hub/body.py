"""The bytes of one large file, from where they stopped the last time.

Since its version 1.18 the hub's client itself throws away what it has of a file when it is interrupted
(https://github.com/huggingface/huggingface_hub/pull/4306).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from turbopilot.base.errors import DownloadError
from turbopilot.hub.retry import Retries

_BUFFER = 1 << 20


def fetch_body(url: str, part: Path, n_bytes: int, report: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of the file, however often the connection breaks.

    Args:
        url: the file's address on the hub; only the hub itself is sent the token, not where it points to.
        part: what came so far, or a new file.
        n_bytes: size of the whole file.
        report: called with the bytes that are here.

    Raises:
        DownloadError: more bytes come than the file has.
        Exception: the client's, where trying again does not help.
    """
    retries = Retries(network=True)
    with part.open("ab", buffering=_BUFFER) as f:
        if f.tell() > n_bytes:
            f.truncate(0)
            f.seek(0)
        while (begun := f.tell()) < n_bytes:
            try:
                _receive(url, f, n_bytes, report)
                if f.tell() == begun:
                    raise ConnectionError("an answer without a body")
            except Exception as e:
                if f.tell() > begun:
                    retries.advanced()
                retries.wait(e)
        f.flush()
        os.fsync(f.fileno())


def _receive(url: str, f: BinaryIO, n_bytes: int, report: Callable[[int], None]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    begin = f.tell()
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        span = response.headers.get("Content-Range", "")
        if begin and not (response.status_code == 206 and span.startswith(f"bytes {begin}-")):
            f.seek(0)  # the server knows no ranges, or sends another: what comes is the whole file
            f.truncate()
            if response.status_code == 206:
                raise ConnectionError(f"asked for bytes from {begin} on, the hub sends {span!r}")
        report(f.tell())
        for piece in response.iter_bytes():
            if f.tell() + len(piece) > n_bytes:
                raise DownloadError(
                    f"{url}: more bytes come than the {n_bytes:,} that the hub lists",
                    hint="if HF_ENDPOINT names a mirror, try without it",
                )
            f.write(piece)
            report(f.tell())
