"""Move a planned tensor's data: what needs no change as bytes, the rest in blocks of rows.

Knows nothing of output formats: the GGUF writer and the checkpoint writer both call `write_tensor`.
At most one block is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import FileIO

import numpy as np

from converters.checkpoint import Checkpoint
from converters.encode import Array, F16Overflow, encode
from converters.plan import PlannedPart, PlannedTensor
from converters.source_tensor import data_bytes
from turbopilot.base.errors import TensorMismatch

BLOCK_BYTES = 8 << 20  # large enough that the disk and numpy are busy, small enough for any machine
COPY_BYTES = 1 << 20


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


def read_tensor(checkpoint: Checkpoint, tensor: PlannedTensor) -> Array:
    """A planned tensor of F32 as a whole, in its shape, whatever its sources are in."""
    if not tensor.parts:
        return np.zeros(tensor.shape, np.float32)
    blocks = [
        encode(block, part.source.dtype, "F32")
        for part in tensor.parts
        for block in _placed(checkpoint, part)
    ]
    return np.concatenate(blocks).reshape(tensor.shape)


def write_all(out: FileIO, data: Array | bytes | memoryview) -> None:
    """Write every byte: an unbuffered file may take fewer at a time."""
    view = np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else memoryview(data)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    while view:
        view = view[out.write(view) :]


def _copy(
    out: FileIO, checkpoint: Checkpoint, part: PlannedPart, wrote: Callable[[int], None]
) -> None:
    """The source's bytes as they are, through one buffer that stays in the processor's cache.

    Not by the kernel (copy_file_range): from an offset that is no multiple of a page it was up to twice as slow.
    """
    source = part.source
    file = checkpoint.file(source.path)
    file.seek(source.offset)
    left = source.n_bytes
    buffer = memoryview(bytearray(min(COPY_BYTES, left)))
    while left:
        n = file.readinto(buffer[:left])
        if not n:
            raise checkpoint.ended_inside(source)
        write_all(out, buffer[:n])
        wrote(n)
        left -= n


def _rows(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[Array]:
    step, n = _rows_at_once(part), part.source.shape[0]
    for start in range(0, n, step):
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
