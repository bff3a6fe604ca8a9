"""Background scan of the source files: their SHA-256, and NaN or infinity in their tensors.

The writer copies unchanged tensors without checking their values. A thread reads every file from start to end;
hashing and comparing release the GIL. When the writer is done, its thread helps to scan the remaining files.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from converters.encode import Array
from converters.source_tensor import SourceTensor
from turbopilot.base.errors import CorruptCheckpoint, TensorMismatch
from turbopilot.base.file_digest import stated_digest
from turbopilot.base.quoting import quoted

BUFFER_BYTES = 1 << 18  # stays in a core's cache between reading, hashing and checking

# dtype → (unsigned type of its bits, mask without the sign, smallest masked value that is infinite or NaN)
_FINITE: dict[str, tuple[np.dtype[Any], int, int]] = {
    "F32": (np.dtype("<u4"), 0x7FFFFFFF, 0x7F800000),
    "F16": (np.dtype("<u2"), 0x7FFF, 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7FFF, 0x7F80),
}


class Scan:
    """Scan that hashes files and checks the values of tensors.

    A context manager: the scan starts at once and stops when the context ends.

    Args:
        tensors: tensors whose values are checked.
        files: files to hash.
        keep_nonfinite: accept any values.
        rehash: hash the files of a Hub cache too, instead of trusting their names.
    """

    def __init__(
        self,
        tensors: Iterable[SourceTensor],
        files: Iterable[Path],
        *,
        keep_nonfinite: bool,
        rehash: bool = False,
    ) -> None:
        by_file: dict[Path, list[SourceTensor]] = {path: [] for path in files}
        self._stated = {} if rehash else {path: stated_digest(path) for path in by_file}
        hashed = {path for path in by_file if not self._stated.get(path)}
        for tensor in set(tensors):
            by_file.setdefault(tensor.path, []).append(tensor)
        self._cancelled = threading.Event()
        self._digests: dict[Path, Future[str]] = {}
        self._jobs: list[tuple[Path, tuple[SourceTensor, ...], bool]] = []
        # the largest file is popped first, so that two threads can share the small ones at the end
        for path, found in sorted(by_file.items(), key=lambda item: _size(item[0])):
            self._digests[path] = Future()
            self._jobs.append((path, () if keep_nonfinite else tuple(found), path in hashed))
        self._thread = threading.Thread(target=self._work, name="scan", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise an error that was found so far, without waiting.

        Raises:
            TensorMismatch: a tensor contains NaN or infinity.
            CorruptCheckpoint: a file cannot be read to its end.
        """
        for digest in self._digests.values():
            if digest.done():
                digest.result()

    def sha256(self) -> Mapping[Path, str]:
        """Scan the remaining files, wait for the thread, and return each file's digest in hex.

        Raises the same errors as `check`.
        """
        self._work()
        digests = {
            path: digest.result() or self._stated.get(path, "")
            for path, digest in self._digests.items()
        }
        return {path: digest for path, digest in digests.items() if digest}

    def _work(self) -> None:
        with suppress(IndexError):  # no jobs left
            while not self._cancelled.is_set():
                path, tensors, hashed = self._jobs.pop()
                try:
                    self._digests[path].set_result(self._file(path, tensors, hashed))
                except BaseException as e:  # raised by the thread that reads the digest
                    self._digests[path].set_exception(e)

    def _file(self, path: Path, tensors: tuple[SourceTensor, ...], hashed: bool) -> str:
        digest = hashlib.sha256() if hashed else None
        view = memoryview(bytearray(BUFFER_BYTES))
        work: Array = np.empty(BUFFER_BYTES, np.uint8)
        try:
            with FileIO(path) as file:
                for start, stop, tensor in _runs(tensors, path.stat().st_size):
                    if tensor is None and digest is None:
                        continue
                    for block in self._blocks(file, start, stop, view):
                        if digest:
                            digest.update(block)
                        if tensor and not _is_finite(block, tensor.dtype, work):
                            raise TensorMismatch(
                                f"{path}: tensor {quoted(tensor.name)} contains NaN or infinite values",
                                hint="the checkpoint is damaged or its training diverged; "
                                "--force converts it anyway",
                            )
        except OSError as e:
            raise CorruptCheckpoint(f"{path}: cannot be read: {e.strerror}") from e
        return digest.hexdigest() if digest else ""

    def _blocks(
        self, file: FileIO, start: int, stop: int, view: memoryview
    ) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop` in full buffers, so that no value is split; end if cancelled."""
        file.seek(start)
        while start < stop and not self._cancelled.is_set():
            want = min(BUFFER_BYTES, stop - start)
            filled = 0
            while filled < want:
                n = file.readinto(view[filled:want])
                if not n:
                    raise CorruptCheckpoint(
                        f"{file.name!s}: ended early",
                        hint="check whether another program changed the file",
                    )
                filled += n
            yield view[:want]
            start += want

    def __enter__(self) -> Scan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._thread.join()


def _is_finite(block: memoryview, name: str, work: Array) -> bool:
    """Return whether all values in the block are finite; `work` is a scratch buffer."""
    dtype, unsigned, limit = _FINITE[name]
    bits = np.frombuffer(block, dtype)
    magnitude: Array = work.view(dtype)[: len(bits)]
    return bool(np.bitwise_and(bits, unsigned, out=magnitude).max() < limit)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # the scan reports the error when it reads the file


def _runs(
    tensors: tuple[SourceTensor, ...], size: int
) -> list[tuple[int, int, SourceTensor | None]]:
    """Return the file as consecutive runs (start, stop, tensor), with None for bytes between tensors.

    If two tensors share bytes (a tied matrix under two names), the run of the second starts at the end of the first.
    """
    runs: list[tuple[int, int, SourceTensor | None]] = []
    at = 0
    for tensor in sorted(tensors, key=lambda t: t.offset):
        start, stop = max(at, tensor.offset), tensor.offset + tensor.n_bytes
        if tensor.dtype not in _FINITE or stop <= start:
            continue
        if start > at:
            runs.append((at, start, None))
        runs.append((start, stop, tensor))
        at = stop
    if at < size:
        runs.append((at, size, None))
    return runs
