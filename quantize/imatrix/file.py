"""An importance matrix's file: today's GGUF, read and written, and the old form, read. Believes nothing in a file.

Source: llama.cpp, common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp. Today's form is a GGUF of
`general.type` "imatrix" with two F32 tensors for each weight: NAME.in_sum2 (columns, matrices) and NAME.counts
(1, matrices).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quantize.imatrix.legacy import parse_legacy
from quantize.imatrix.matrix import Entry, Floats, Imatrix
from turbopilot.base.atomic import replacing
from turbopilot.base.errors import CorruptModel, InvalidInput, QuantizationError
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _N_CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_LONGEST_NAME = 63  # GGML_MAX_NAME in ggml.h, less the zero at its end
_DAMAGED = "the file is damaged: download it again, or make one with turbopilot imatrix"


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix, of today's form or the old one (.dat).

    Raises:
        InvalidInput: there is no such file, or it holds something else.
        CorruptModel: it contradicts itself or its size, or a sum is negative or not finite; the entry is named.
    """
    if path.is_file():
        with path.open("rb") as f:
            beginning = f.read(4)
            if beginning and beginning != b"GGUF":
                f.seek(0)
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _checked(path, parse_legacy(data, path))
    return _checked(path, _parse(read_gguf(path)))


def _parse(header: GgufHeader) -> Imatrix:
    path = header.path
    tensors = {t.name: t for t in header.tensors}
    names = {n.removesuffix(_SUMS) for n in tensors if n.endswith(_SUMS)}
    names |= {n.removesuffix(_COUNTS) for n in tensors if n.endswith(_COUNTS)}
    if not names:
        raise InvalidInput(
            f"{path}: holds no importance matrix",
            hint="is it a model? turbopilot imatrix MODEL makes a matrix",
        )
    datasets = header.metadata.get(_DATASETS, [])
    n_chunks, chunk_size = (header.metadata.get(k) for k in (_N_CHUNKS, _CHUNK_SIZE))
    if not (isinstance(datasets, list) and all(isinstance(d, str) for d in datasets)):
        raise CorruptModel(f"{path}: {_DATASETS} is no list of names", hint=_DAMAGED)
    for key, value in ((_N_CHUNKS, n_chunks), (_CHUNK_SIZE, chunk_size)):
        if type(value) is not int or value < 0:
            raise CorruptModel(f"{path}: {key} is {value!r:.80}, not a number", hint=_DAMAGED)
    entries = {}
    for name in sorted(names):
        pair = [tensors.get(name + suffix) for suffix in (_SUMS, _COUNTS)]
        for tensor, suffix in zip(pair, (_SUMS, _COUNTS), strict=True):
            if tensor is None:
                raise CorruptModel(f"{path}: {name}{suffix} is missing", hint=_DAMAGED)
            if tensor.type_name != "F32":
                raise CorruptModel(
                    f"{path}: {tensor.name} is {tensor.type_name}, not F32", hint=_DAMAGED
                )
        sums, counts = (_values(tensor) for tensor in pair if tensor)
        if sums.size % counts.size:
            raise CorruptModel(
                f"{path}: {name}: {sums.size:,} sums do not divide by {counts.size:,} counts",
                hint=_DAMAGED,
            )
        if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts < 2.0**62).all()):
            raise CorruptModel(
                f"{path}: {name}{_COUNTS} holds what is no count of tokens", hint=_DAMAGED
            )
        entries[name] = Entry(
            sums.reshape(counts.size, -1), np.rint(counts.astype(np.float64)).astype(np.int64)
        )
    assert isinstance(n_chunks, int)
    assert isinstance(chunk_size, int)
    return Imatrix(entries, tuple(map(str, datasets)), n_chunks, chunk_size)


def _values(tensor: TensorInfo) -> Floats:
    return np.fromfile(tensor.path, np.dtype("<f4"), tensor.n_weights, offset=tensor.offset)


def _checked(path: Path, imatrix: Imatrix) -> Imatrix:
    for name, entry in imatrix.entries.items():
        if not np.isfinite(entry.sums).all():
            raise CorruptModel(f"{path}: {name}: a sum is not finite", hint=_DAMAGED)
        if (entry.sums < 0).any():
            raise CorruptModel(f"{path}: {name}: a sum of squares is negative", hint=_DAMAGED)
    return imatrix


def write_imatrix(
    path: Path, imatrix: Imatrix, extra_metadata: Mapping[str, str | int] | None = None
) -> None:
    """Write today's form, whole or not at all: byte for byte what llama-imatrix would write of the same sums.

    Args:
        path: the file.
        imatrix: what to write; of the old form (no chunk size) no such file can be made.
        extra_metadata: keys of our own, after llama-imatrix's.

    Raises:
        QuantizationError: it holds nothing, or a name is too long for ggml.
        NotEnoughDisk, InvalidInput: as `atomic.replacing`.
    """
    from gguf import GGUFValueType, GGUFWriter

    class Writer(GGUFWriter):  # type: ignore[misc]  # gguf is untyped here
        def add_architecture(self) -> None:
            """A matrix is no model: it has no architecture."""

    if not imatrix.entries or imatrix.chunk_size < 1:
        raise QuantizationError(
            f"{path}: there is no matrix to write: no entries, or no chunk size",
            hint="gather one from a text: turbopilot imatrix MODEL",
        )
    writer = Writer(path=None, arch="")
    writer.add_string("general.type", "imatrix")
    datasets = [d.encode("utf-8", "replace").decode() for d in imatrix.datasets or ("unknown",)]
    writer.add_key_value(_DATASETS, datasets, GGUFValueType.ARRAY, GGUFValueType.STRING)
    writer.add_uint32(_N_CHUNKS, imatrix.n_chunks)
    writer.add_uint32(_CHUNK_SIZE, imatrix.chunk_size)
    for key, value in (extra_metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint64(key, value)
    for name, entry in sorted(imatrix.entries.items()):
        if len(name.encode()) + len(_SUMS) > _LONGEST_NAME:
            raise QuantizationError(
                f"{path}: {name} is too long for a matrix's file",
                hint=f"ggml's names end at {_LONGEST_NAME} bytes, {_SUMS} included",
            )
        # ggml drops outer dimensions of 1
        alone = len(entry.counts) == 1
        sums = np.ascontiguousarray(entry.sums, np.float32)
        counts = entry.counts.astype(np.float32)
        writer.add_tensor(name + _SUMS, sums.reshape(-1) if alone else sums)
        writer.add_tensor(name + _COUNTS, counts if alone else counts[:, None])
    with replacing(path) as part:
        writer.write_header_to_file(part)
        try:
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
