"""Whether tensors hold the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import FileIO

from converters.source_tensor import SourceTensor
from turbopilot.base.errors import CorruptCheckpoint

_BLOCK = 4 << 20


def equal_bytes(tensor: SourceTensor, others: Sequence[SourceTensor]) -> bool:
    """Whether all of `others` are as `tensor` is, in type, shape and every byte. All lie in one file."""
    if any((o.dtype, o.shape) != (tensor.dtype, tensor.shape) for o in others):
        return False
    with FileIO(tensor.path) as file:
        for start in range(0, tensor.n_bytes, _BLOCK):
            n = min(_BLOCK, tensor.n_bytes - start)
            block = _read(file, tensor, start, n)
            if any(_read(file, other, start, n) != block for other in others):
                return False
    return True


def _read(file: FileIO, tensor: SourceTensor, start: int, n: int) -> bytes:
    file.seek(tensor.offset + start)
    data = file.read(n)
    if len(data) < n:
        raise CorruptCheckpoint(
            f"{tensor.path}: ended inside {tensor.name!r}", hint="did the file change?"
        )
    return data
