"""What a quantized file says of its making: by what, from which file, with which matrix. Knows no tensor.

llama.cpp takes the keys before it begins, and the source's SHA-256 is known only when it has been read to its end,
which is done meanwhile. So a placeholder of its length is written, and replaced in the finished file.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from quantize.imatrix import Imatrix
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.base.file_digest import file_digests
from turbopilot.base.version import __version__
from turbopilot.formats.gguf.file import GgufHeader, read_part
from turbopilot.formats.gguf.quantization import PREFIX

_MOST = 127  # bytes of a text that llama.cpp takes, `llama_model_kv_override.val_str`


class SourceDigests:
    """SHA-256 of a model's files, found on a thread while llama.cpp reads them too.

    Args:
        before: the model.
        memory: folder where digests are remembered; None for nowhere.

    A context manager: leaving it waits for the thread.
    """

    def __init__(self, before: GgufHeader, memory: Path | None) -> None:
        self._files = source_files(before)
        self._memory = memory
        self._found: Mapping[str, str] = {}
        self._failure: InvalidInput | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._find, daemon=True)

    def _find(self) -> None:
        def stop(done: int, total: int, what: str = "", /) -> None:
            if self._stop.is_set():
                raise InvalidInput("stopped")

        try:
            self._found = file_digests(self._files, self._memory, stop)
        except InvalidInput as e:
            self._failure = e

    def __enter__(self) -> SourceDigests:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind:
            self._stop.set()
        else:
            self._thread.join()

    def write_into(self, path: Path) -> None:
        """Put the digests where the placeholders are.

        Raises:
            InvalidInput: a file could not be read.
            QuantizationError: there are no placeholders.
        """
        self._thread.join()
        if self._failure:
            raise self._failure
        _, layout = read_part(path)
        with path.open("rb+") as file:
            for i, source in enumerate(self._files):
                _, end = layout.keys.get(_key(i), (0, 0))
                placeholder = _placeholder(i).encode()
                file.seek(max(0, end - len(placeholder)))
                if file.read(len(placeholder)) != placeholder:
                    raise QuantizationError(
                        f"{path}: llama.cpp did not write the key {_key(i)}",
                        hint="nothing was kept; this is a bug: please report it",
                    )
                file.seek(end - len(placeholder))
                file.write(self._found[source.name].encode())


def source_files(before: GgufHeader) -> tuple[Path, ...]:
    """The file of a model, or all of its parts."""
    return tuple(sorted({t.path for t in before.tensors} | {before.path}))


def metadata(
    before: GgufHeader, imatrix: Imatrix | None, imatrix_path: Path | None, llama_cpp: str
) -> dict[str, str | int]:
    """The keys: llama.cpp's own of a matrix first, as llama-quantize writes them, then ours.

    Args:
        before: the source.
        imatrix: the matrix that is used.
        imatrix_path: its file; its name alone is written: where it lay is nobody's business.
        llama_cpp: the version of llama-cpp-python.
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
        digests = file_digests([imatrix_path])
        keys[PREFIX + "imatrix.sha256"] = digests[imatrix_path.name]
    keys[PREFIX + "version"] = __version__
    keys[PREFIX + "llama_cpp"] = llama_cpp
    keys[PREFIX + "source.file"] = _short(before.path.name)
    for i, _ in enumerate(source_files(before)):
        keys[_key(i)] = _placeholder(i)
    return keys


def _key(i: int) -> str:
    """Of the digest of a source's file; of a split one, each part has a key, since an override is no list."""
    return PREFIX + "source.sha256" + (f".{i + 1}" if i else "")


def _placeholder(i: int) -> str:
    return f"sha-256 of source file {i}".ljust(64, ".")


def _short(text: str) -> str:
    """As much of a text as llama.cpp takes, cut between two characters."""
    return text.encode()[:_MOST].decode(errors="ignore")
