"""Writer for planned tensors.

Unchanged tensors are copied as bytes; others are converted in blocks of rows, one block in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO

import numpy as np

from converters.checkpoint import Checkpoint
from converters.encode import Array, F16Overflow, encode
from converters.planned import Plan, PlannedPart, PlannedTensor
from converters.scan import Scan
from converters.source_tensor import data_bytes
from turbopilot.base.errors import TensorMismatch
from turbopilot.base.progress import Progress
from turbopilot.base.quoting import quoted

BLOCK_BYTES = 8 << 20
COPY_BYTES = 1 << 20


@dataclass(slots=True)
class TensorWriter:
    """Writer for a plan's tensors, in order; after each block, it raises errors of the scan and reports progress."""

    checkpoint: Checkpoint
    plan: Plan
    scan: Scan
    progress: Progress
    keep_nonfinite: bool = False
    done: int = 0

    def write(self, out: FileIO, tensor: PlannedTensor) -> None:
        """Append the tensor's data to `out`, an unbuffered file.

        Raises:
            TensorMismatch: values exceed F16's range (unless `keep_nonfinite`), or the scan found NaN or infinity.
            CorruptCheckpoint: a source file ended early.
        """
        for block in self._blocks(tensor):
            write_all(out, block)
            self.scan.check()
            self.done += block.nbytes
            self.progress(self.done, self.plan.n_bytes, tensor.name)

    def _blocks(self, tensor: PlannedTensor) -> Iterator[Array | memoryview]:
        if not tensor.parts:
            yield np.zeros(tensor.n_bytes, np.uint8)
        for part in tensor.parts:
            moved = part.rows is not None or part.transpose or part.formula
            if not moved and part.source.dtype == tensor.dtype:
                yield from _copied(self.checkpoint, part)
                continue
            for block, dtype in _computed(self.checkpoint, part):
                try:
                    yield encode(block, dtype, tensor.dtype, lossy=self.keep_nonfinite)
                except F16Overflow as e:
                    raise TensorMismatch(
                        f"{part.source.path}: tensor {quoted(part.source.name)} has values up to "
                        f"{e.args[0]:.4g}; the maximum of F16 is 65504",
                        hint="convert with --dtype bf16 or f32",
                    ) from e


def read_tensor(checkpoint: Checkpoint, tensor: PlannedTensor) -> Array:
    """Return a whole planned tensor in F32."""
    if not tensor.parts:
        return np.zeros(tensor.shape, np.float32)
    blocks = [
        encode(block, dtype, "F32")
        for part in tensor.parts
        for block, dtype in _computed(checkpoint, part)
    ]
    return np.concatenate(blocks).reshape(tensor.shape)


def write_all(out: FileIO, data: Array | bytes | memoryview) -> None:
    """Write all bytes; an unbuffered file may accept fewer per call."""
    view = np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else memoryview(data)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    while view:
        view = view[out.write(view) :]


def _copied(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[memoryview]:
    """Yield the source's bytes, through one buffer that fits in the processor's cache.

    copy_file_range was up to twice as slow for offsets that are not page-aligned.
    """
    source = part.source
    checkpoint.file(source.path).seek(source.offset)
    left = source.n_bytes
    buffer = memoryview(bytearray(min(COPY_BYTES, left)))
    while left:
        n = checkpoint.read_into(buffer[:left], source)
        yield buffer[:n]
        left -= n


def _computed(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[tuple[Array, str]]:
    """Yield blocks of the part's values in the target's order, each with its type: the source's, or F32 if computed."""
    for block in _placed(checkpoint, part):
        if not part.formula:
            yield block, part.source.dtype
            continue
        values = encode(block, part.source.dtype, "F32")
        yield values * np.float32(part.scale) + np.float32(part.offset), "F32"


def _placed(checkpoint: Checkpoint, part: PlannedPart) -> Iterator[Array]:
    """Yield blocks of the part's rows, in the target's order and the source's type."""
    if part.transpose:
        blocks = list(_placed(checkpoint, replace(part, transpose=False)))
        yield np.ascontiguousarray(np.concatenate(blocks).T)
        return
    source = part.source
    n = source.shape[0]
    step = max(1, BLOCK_BYTES // max(1, data_bytes(source.dtype, source.shape[1:])))
    if part.rows is None:
        for start in range(0, n, step):
            yield checkpoint.read_rows(source, start, min(start + step, n))
        return
    for start in range(0, len(part.rows), step):
        wanted = part.rows[start : start + step]
        # orders are local (within heads), so nearly all rows between the first and the last are needed
        for run in np.split(wanted, np.flatnonzero(np.abs(np.diff(wanted)) > step) + 1):
            low, high = int(run.min()), int(run.max()) + 1
            yield checkpoint.read_rows(source, low, high)[run - low]
