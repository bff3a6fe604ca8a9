"""Move a planned tensor's data: what needs no change by the kernel, the rest in blocks of rows.

Knows nothing of output formats: the GGUF writer and the checkpoint writer both call `write_tensor`.
At most one block is in memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from io import FileIO

import numpy as np

from converters.checkpoint import Checkpoint
from converters.encode import Array, F16Overflow, encode
from converters.plan import PlannedPart, PlannedTensor
from converters.source_tensor import data_bytes
from turbopilot.errors import TensorMismatch

BLOCK_BYTES = 8 << 20  # large enough that the disk and numpy are busy, small enough for any machine
COPY_BYTES = 64 << 20  # between two reports of progress

# Why the kernel may refuse to copy between two files: it cannot, not between these, not this kind.
_CANNOT_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def write_tensor(
    out: FileIO,
    checkpoint: Checkpoint,
    tensor: PlannedTensor,
    wrote: Callable[[int], None],
    *,
    keep_nonfinite: bool = False,
) -> None:
    """Append the tensor's data to `out`, an unbuffered file; `wrote` hears of bytes as they are written.

    Raises:
        TensorMismatch: values lie beyond F16 (unless `keep_nonfinite`).
        CorruptCheckpoint: a source ended early.
    """
    if not tensor.parts:
        write_all(out, np.zeros(tensor.n_bytes, np.uint8))
        wrote(tensor.n_bytes)
    for part in tensor.parts:
        if part.unchanged and part.source.dtype == tensor.dtype:
            _copy(out, checkpoint, part, wrote)
            continue
        for block in _placed(checkpoint, part):
            try:
                encoded = encode(block, part.source.dtype, tensor.dtype, lossy=keep_nonfinite)
            except F16Overflow as e:
                raise TensorMismatch(
                    f"{part.source.path}: tensor {part.source.name!r} has values up to "
                    f"{e.largest:.4g}; F16 ends at 65504",
                    hint="convert with --dtype bf16 or f32",
                ) from e
            write_all(out, encoded)
            wrote(encoded.nbytes)


def write_all(out: FileIO, data: Array | bytes) -> None:
    """Write every byte: an unbuffered file may take fewer at a time."""
    view = memoryview(data) if isinstance(data, bytes) else np.ascontiguousarray(data).data
    view = view.cast("B") if view.nbytes else memoryview(b"")
    while view:
        view = view[out.write(view) :]


def _copy(
    out: FileIO, checkpoint: Checkpoint, part: PlannedPart, wrote: Callable[[int], None]
) -> None:
    """The source's bytes as they are, from file to file inside the kernel where it can do that."""
    source = part.source
    at, end = source.offset, source.offset + source.n_bytes
    if hasattr(os, "copy_file_range"):
        fd = checkpoint.file(source.path).fileno()
        try:
            while at < end and (
                n := os.copy_file_range(fd, out.fileno(), min(COPY_BYTES, end - at), at)
            ):
                at += n
                wrote(n)
        except OSError as e:
            if e.errno not in _CANNOT_COPY or at > source.offset:
                raise
    if at < end:  # macOS, Windows, two file systems; or the source ended early, which this names
        row_bytes = source.n_bytes // source.shape[0]
        first = (at - source.offset) // row_bytes
        skip = (at - source.offset) % row_bytes
        for block in _rows(checkpoint, part, first):
            data = block.tobytes()[skip:] if skip else block
            skip = 0
            write_all(out, data)
            wrote(len(data) if isinstance(data, bytes) else data.nbytes)


def _rows(checkpoint: Checkpoint, part: PlannedPart, first: int = 0) -> Iterator[Array]:
    step, n = _rows_at_once(part), part.source.shape[0]
    for start in range(first, n, step):
        yield checkpoint.read_rows(part.source, start, min(start + step, n))


def _rows_at_once(part: PlannedPart) -> int:
    return max(1, BLOCK_BYTES // max(1, data_bytes(part.source.dtype, part.source.shape[1:])))


def _placed(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[Array]:
    """The part's rows in the target's order, a block at a time, in the source's type."""
    source = part.source
    if part.transpose:
        whole = checkpoint.read_rows(source, 0, source.shape[0])
        yield np.ascontiguousarray(whole.T)
        return
    if part.rows is None:
        yield from _rows(checkpoint, part)
        return
    step = _rows_at_once(part)
    for start in range(0, len(part.rows), step):
        wanted = part.rows[start : start + step]
        # Orders are local (within heads), so the rows between the first and the last are nearly all wanted.
        for run in np.split(wanted, np.flatnonzero(np.abs(np.diff(wanted)) > step) + 1):
            low, high = int(run.min()), int(run.max()) + 1
            yield checkpoint.read_rows(source, low, high)[run - low]
