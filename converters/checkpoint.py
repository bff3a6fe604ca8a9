"""A folder's weights, as safetensors or PyTorch files, single or sharded; rows are read when needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import TypeAlias

import numpy as np

from converters.encode import NUMPY_DTYPES, Array
from converters.safetensors_file import read_header
from converters.source_tensor import SourceTensor, data_bytes
from converters.torch_file import read_pickle
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.base.quoting import quoted

Reader: TypeAlias = Callable[[Path], dict[str, SourceTensor]]

# File name and reader, preferred first. The index of shards is named after the single file.
FORMATS: tuple[tuple[str, Reader], ...] = (
    ("model.safetensors", read_header),
    ("pytorch_model.bin", read_pickle),
)
MAX_NAME = 120  # of a shard; file systems allow up to 255 bytes


class Checkpoint(ExitStack):
    """Tensors of a folder by name; a context manager that closes the files."""

    def __init__(self, tensors: Mapping[str, SourceTensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self._files: dict[Path, FileIO] = {}

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of a folder's weights.

        Raises:
            InvalidInput: there are no weights, or they must be saved again.
            CorruptCheckpoint: a shard is missing, damaged, hostile, or not where the index says.
        """
        for single, read in FORMATS:
            index = folder / f"{single}.index.json"
            if index.is_file():
                return cls(_read_sharded(folder, index, read))
            if (folder / single).is_file():
                return cls(read(folder / single))
        names = " nor ".join(single for single, _ in FORMATS)
        raise InvalidInput(
            f"{folder}: holds neither {names}, nor an index of shards of either",
            hint="download the checkpoint's weights too: turbopilot download",
        )

    def file(self, path: Path) -> FileIO:
        """Return a source file, opened once for all of its tensors."""
        if path not in self._files:
            self._files[path] = self.enter_context(FileIO(path))
        return self._files[path]

    def read_rows(self, tensor: SourceTensor, start: int, stop: int) -> Array:
        """Return rows `start`…`stop` (of a 1-D tensor: elements), as (rows, …) in the tensor's own dtype.

        BF16 is read as uint16, quantized rows as (rows, bytes).
        """
        row_bytes = data_bytes(tensor.dtype, tensor.shape[1:])
        if tensor.dtype in NUMPY_DTYPES:
            block: Array = np.empty((stop - start, *tensor.shape[1:]), NUMPY_DTYPES[tensor.dtype])
        else:
            block = np.empty((stop - start, row_bytes), np.uint8)
        file = self.file(tensor.path)
        file.seek(tensor.offset + start * row_bytes)
        view = block.data.cast("B") if block.nbytes else memoryview(b"")
        while view:
            n = file.readinto(view)
            if not n:
                raise self.ended_inside(tensor)
            view = view[n:]
        return block

    @staticmethod
    def ended_inside(tensor: SourceTensor) -> CorruptCheckpoint:
        """Return the error for a file that became shorter."""
        return CorruptCheckpoint(
            f"{tensor.path}: ended inside {quoted(tensor.name)}", hint="did the file change?"
        )


def _read_sharded(folder: Path, index: Path, read: Reader) -> dict[str, SourceTensor]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = [(str(k), str(v)) for k, v in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CorruptCheckpoint(
            f"{index}: not an index of shards ({e})", hint="download it again"
        ) from e
    shards = sorted({shard for _, shard in items})
    for shard in shards:
        # an untrusted index may name only files beside it
        if Path(shard).name != shard or shard in ("", ".", "..") or len(shard) > MAX_NAME:
            raise CorruptCheckpoint(
                f"{index}: names {quoted(shard)}, which is not a file beside it",
                hint="do not trust this checkpoint",
            )
    absent = [s for s in shards if not (folder / s).is_file()]
    if absent:
        raise CorruptCheckpoint(
            f"{index}: names shards that are missing: {', '.join(map(repr, absent))}",
            hint="download them",
        )
    tensors: dict[str, SourceTensor] = {}
    for shard in shards:
        for name, tensor in read(folder / shard).items():
            if name in tensors:
                raise CorruptCheckpoint(
                    f"{folder / shard}: tensor {quoted(name)} is also in {tensors[name].path.name}",
                    hint="download the checkpoint again: the two may differ",
                )
            tensors[name] = tensor
    for name, shard in items:
        if name not in tensors or tensors[name].path.name != shard:
            raise CorruptCheckpoint(
                f"{index}: says that {quoted(name)} is in {shard}, where it is not",
                hint="download it again",
            )
    return tensors
