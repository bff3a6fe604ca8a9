"""The server's page: its files, and the choice between the page and plain text at `/`.

The files are those that `scripts/build_page` makes in `serve/page/static`.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import Final

from flask import Response, request
from werkzeug.exceptions import NotFound

INDEX: Final = "index.html"
# Content types by the ends of the files' names. `mimetypes` would ask the system, whose tables differ.
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# The page loads only its own files and asks only this server. No other page may embed it or read its files.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page."""

    content_type: str
    data: bytes
    compressed: bytes
    etag: str


def page_views(model: str, *, has_page: bool) -> dict[str, Callable[..., Response]]:
    """Return the views of `/` and of the page's files.

    Args:
        model: name of the default model.
        has_page: whether the page is on (`--no-page`).
    """

    def index() -> Response:
        accepted = request.accept_mimetypes
        if has_page and accepted.quality("text/html") > accepted.quality("text/plain"):
            response = _response(_files()[INDEX])
        else:
            # The original TurboPilot's page was "Hello world", and existing health checks look for this text.
            text = f"Hello world\n\nTurboPilot serves {model} at POST /v1/completions\n"
            response = Response(text, mimetype="text/plain")
        response.vary.add("Accept")
        return response

    def page_file(file: str) -> Response:
        found = _files().get(file) if has_page else None
        if found is None:
            raise NotFound
        return _response(found)

    return {"index": index, "pageFile": page_file}


@cache
def _files() -> dict[str, PageFile]:
    """Return all files of the page by name, read and compressed at the first request."""
    found = files("serve.page").joinpath("static").iterdir()
    return {f.name: _page_file(f.name, f.read_bytes()) for f in found if _suffix(f.name) in _TYPES}


def _suffix(name: str) -> str:
    return PurePath(name).suffix


def _page_file(name: str, data: bytes) -> PageFile:
    etag = sha256(data).hexdigest()[:32]
    return PageFile(_TYPES[_suffix(name)], data, gzip.compress(data, mtime=0), etag)


def _response(file: PageFile) -> Response:
    """Return a file, or status 304 if the browser has it."""
    is_compressed = request.accept_encodings.quality("gzip") > 0
    data = file.compressed if is_compressed else file.data
    response = Response(data, content_type=file.content_type, headers=HEADERS)
    if is_compressed:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Cache-Control"] = "no-cache"  # ask each time: an update changes the files
    response.vary.add("Accept-Encoding")
    response.set_etag(file.etag, weak=True)  # weak, since the compressed file has the same
    response.make_conditional(request)
    return response
