"""Provenance metadata of a quantized file: versions, source file and importance matrix.

llama.cpp writes the keys before the source's SHA-256 is known, so a placeholder is written first and replaced in the
finished file.
"""

from __future__ import annotations

import importlib.metadata
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quantize.imatrix import Imatrix
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.base.file_digest import file_digests
from turbopilot.base.version import __version__
from turbopilot.formats.gguf.file import GgufHeader, read_part
from turbopilot.formats.gguf.metadata import PREFIX

_MOST = 127  # longest text in bytes that llama.cpp accepts, `llama_model_kv_override.val_str`


class SourceDigests:
    """SHA-256 digests of a model's files, computed on a thread while llama.cpp quantizes.

    A context manager: on exit it waits for the thread, or stops it if there was an exception.
    """

    def __init__(self, before: GgufHeader, cache: Path | None) -> None:
        self._files, self._stop = before.files, threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._found = self._pool.submit(file_digests, self._files, cache, self._check)

    def _check(self, done: int, total: int, what: str = "", /) -> None:
        if self._stop.is_set():
            raise InvalidInput("stopped")

    def __enter__(self) -> SourceDigests:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._stop.set()
        self._pool.shutdown(wait=kind is None)

    def write_into(self, path: Path) -> None:
        """Replace the placeholders with the digests; raise InvalidInput if a source file could not be read."""
        found = self._found.result()
        _, layout = read_part(path)
        with path.open("rb+") as file:
            for i, source in enumerate(self._files):
                _, end = layout.keys.get(_key(i), (0, 0))
                placeholder = _placeholder(i).encode()
                file.seek(max(0, end - len(placeholder)))
                if file.read(len(placeholder)) != placeholder:
                    raise QuantizationError(
                        f"{path}: llama.cpp did not write the key {_key(i)}",
                        hint="no output was kept; this is a bug: please report it",
                    )
                file.seek(end - len(placeholder))
                file.write(found[source.name].encode())


def metadata(
    before: GgufHeader, imatrix: Imatrix | None, imatrix_path: Path | None
) -> dict[str, str | int]:
    """Return llama-quantize's keys for the importance matrix, then TurboPilot's keys.

    Folder names may be private, so only file names are written.
    """
    keys: dict[str, str | int] = {}
    if imatrix and imatrix_path:
        # Source: llama.cpp, tools/quantize/quantize.cpp.
        keys["quantize.imatrix.file"] = _short(imatrix_path.name)
        if imatrix.datasets:
            keys["quantize.imatrix.dataset"] = _short(imatrix.datasets[0])
        keys["quantize.imatrix.entries_count"] = len(imatrix.entries)
        if imatrix.n_chunks > 0:
            keys["quantize.imatrix.chunks_count"] = imatrix.n_chunks
        keys[PREFIX + "imatrix.sha256"] = file_digests([imatrix_path])[imatrix_path.name]
    keys[PREFIX + "version"] = __version__
    keys[PREFIX + "llama_cpp"] = importlib.metadata.version("llama-cpp-python")
    keys[PREFIX + "source.file"] = _short(before.path.name)
    for i, _ in enumerate(before.files):
        keys[_key(i)] = _placeholder(i)
    return keys


def _key(i: int) -> str:
    """Return the key for the digest of source file `i`; llama.cpp cannot add a list with all digests."""
    return PREFIX + "source.sha256" + (f".{i + 1}" if i else "")


def _placeholder(i: int) -> str:
    return f"sha-256 of source file {i}".ljust(64, ".")


def _short(text: str) -> str:
    """Truncate a text to the length that llama.cpp accepts, without splitting a character."""
    return text.encode(errors="replace")[:_MOST].decode(errors="ignore")
