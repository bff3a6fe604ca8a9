"""Compressed request bodies. Of the known clients, only Sweep's plugins for JetBrains and Neovim send them."""

from __future__ import annotations

import zlib
from typing import Any, Final

from werkzeug.exceptions import RequestEntityTooLarge

from serve.api.endpoints import ENDPOINTS
from serve.settings import MAX_BODY_BYTES
from turbopilot.base.errors import InvalidRequest, UnsupportedEncoding

_COMPRESSED: Final = frozenset(e.name for e in ENDPOINTS if e.may_compress)
_GZIP: Final = 16 + zlib.MAX_WBITS


def check_coding(coding: str, endpoint: str | None) -> None:
    """Raise UnsupportedEncoding if a body is compressed and its route does not support that.

    Args:
        coding: the header Content-Encoding, or "".
        endpoint: name of the route; None if there is none.
    """
    given, coding = coding.strip(), coding.strip().lower()
    if coding in ("", "identity"):
        return
    if endpoint not in _COMPRESSED:
        raise UnsupportedEncoding(
            f"Content-Encoding {given[:100]!r} is not supported; send the body without compression"
        )
    if coding not in ("gzip", "br") or (coding == "br" and _brotli() is None):
        hint = "; for br, install brotli next to TurboPilot" if coding == "br" else ""
        raise UnsupportedEncoding(
            f"Content-Encoding {given[:100]!r} is not supported here, only gzip and br{hint}"
        )


def decompressed(data: bytes, coding: str) -> bytes:
    """Return a body without compression, if the header Content-Encoding names any.

    Raises:
        InvalidRequest: the body is not compressed as its header says.
        RequestEntityTooLarge: it has more than MAX_BODY_BYTES.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return data
    try:
        plain, is_whole = _gunzip(data) if coding == "gzip" else _unbrotli(data)
    except (zlib.error, OSError) as e:
        raise InvalidRequest(f"the body is not valid {coding}: {e}") from None
    if len(plain) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    if not is_whole:
        raise InvalidRequest(f"the body is not valid {coding}: its end is missing")
    return plain


def _gunzip(data: bytes) -> tuple[bytes, bool]:
    """Return up to MAX_BODY_BYTES + 1 bytes, and whether the data ended."""
    stream = zlib.decompressobj(_GZIP)
    return stream.decompress(data, MAX_BODY_BYTES + 1), stream.eof


def _unbrotli(data: bytes) -> tuple[bytes, bool]:
    """Return the same for Brotli."""
    brotli = _brotli()
    stream, plain = brotli.Decompressor(), bytearray()
    try:
        plain += stream.process(data, output_buffer_limit=MAX_BODY_BYTES + 1)
        while not stream.is_finished() and len(plain) <= MAX_BODY_BYTES:
            if not (more := stream.process(b"", output_buffer_limit=MAX_BODY_BYTES + 1)):
                break
            plain += more
    except brotli.error as e:
        raise OSError(str(e)) from None
    return bytes(plain), stream.is_finished()


def _brotli() -> Any:
    """Return the module brotli from version 1.2, which limits its output; None if it is not installed."""
    try:
        import brotli
    except ImportError:
        return None
    return brotli if hasattr(brotli.Decompressor, "can_accept_more_data") else None
