"""Weights of a checkpoint, in safetensors or PyTorch files, single or sharded; rows are read on demand."""

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

# File name and reader, preferred first, of a model and of PEFT's adapter. A shard index is named after the single file.
FORMATS: tuple[tuple[str, Reader], ...] = (
    ("model.safetensors", read_header),
    ("pytorch_model.bin", read_pickle),
)
ADAPTER_FORMATS: tuple[tuple[str, Reader], ...] = (
    ("adapter_model.safetensors", read_header),
    ("adapter_model.bin", read_pickle),
)
MAX_NAME = 120  # characters in a shard's file name; file systems allow up to 255 bytes


class Checkpoint(ExitStack):
    """Tensors of a checkpoint by name; a context manager that closes the files."""

    def __init__(self, tensors: Mapping[str, SourceTensor]) -> None:
        super().__init__()
        self.tensors = tensors
        self._files: dict[Path, FileIO] = {}

    @classmethod
    def open(cls, folder: Path, formats: tuple[tuple[str, Reader], ...] = FORMATS) -> Checkpoint:
        """Read the headers of a folder's weights, in the first of these formats that it has.

        Raises:
            InvalidInput: there are no weights, or they must be saved again.
            CorruptCheckpoint: a shard is missing, damaged or hostile, or contradicts the index.
        """
        for single, read in formats:
            index = folder / f"{single}.index.json"
            if index.is_file():
                return cls(_read_sharded(folder, index, read))
            if (folder / single).is_file():
                return cls(read(folder / single))
        names = " nor ".join(single for single, _ in formats)
        raise InvalidInput(
            f"{folder}: contains neither {names}, nor a shard index of either",
            hint="download the checkpoint's weights too: turbopilot download",
        )

    def file(self, path: Path) -> FileIO:
        """Return an open source file; each file is opened only once."""
        if path not in self._files:
            try:
                self._files[path] = self.enter_context(FileIO(path))
            except OSError as e:
                raise _unreadable(path, e) from e
        return self._files[path]

    def read_into(self, view: memoryview, tensor: SourceTensor) -> int:
        """Read the next bytes of the tensor's file and return their number, at least 1.

        Raises:
            CorruptCheckpoint: the file ended, or cannot be read.
        """
        try:
            n = self.file(tensor.path).readinto(view)
        except OSError as e:
            raise _unreadable(tensor.path, e) from e
        if not n:
            raise CorruptCheckpoint(
                f"{tensor.path}: ended inside tensor {tensor.name!r}",
                hint="check whether another program changed the file",
            )
        return n

    def read_rows(self, tensor: SourceTensor, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, exclusive (elements of a 1-D tensor), as (rows, …) in the tensor's dtype.

        BF16 is returned as uint16, quantized rows as (rows, bytes).
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
            view = view[self.read_into(view, tensor) :]
        return block


def _unreadable(path: Path, e: OSError) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path}: cannot be read: {e.strerror}", hint="check the file and its disk"
    )


def _read_sharded(folder: Path, index: Path, read: Reader) -> dict[str, SourceTensor]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = [(str(k), str(v)) for k, v in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CorruptCheckpoint(
            f"{index}: not a valid shard index ({e})", hint="download it again"
        ) from e
    shards = sorted({shard for _, shard in items})
    for shard in shards:
        # an untrusted index may name only files in its own folder
        if Path(shard).name != shard or shard in ("", ".", "..") or len(shard) > MAX_NAME:
            raise CorruptCheckpoint(
                f"{index}: names {quoted(shard)}, which is not a file in its folder",
                hint="do not trust this checkpoint",
            )
    absent = [s for s in shards if not (folder / s).is_file()]
    if absent:
        raise CorruptCheckpoint(
            f"{index}: names shards that are missing: {', '.join(map(repr, absent))}",
            hint="download the missing shards",
        )
    tensors: dict[str, SourceTensor] = {}
    for shard in shards:
        for name, tensor in read(folder / shard).items():
            if name in tensors:
                raise CorruptCheckpoint(
                    f"{folder / shard}: tensor {quoted(name)} is also in {tensors[name].path.name}",
                    hint="download the checkpoint again; the two copies may differ",
                )
            tensors[name] = tensor
    for name, shard in items:
        if name not in tensors or tensors[name].path.name != shard:
            raise CorruptCheckpoint(
                f"{index}: lists {quoted(name)} in {shard}, which does not contain it",
                hint="download it again",
            )
    return tensors
