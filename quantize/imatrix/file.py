"""Read and write importance matrices in llama-imatrix's GGUF format; files are not trusted.

A file is a GGUF with `general.type` "imatrix" and two F32 tensors for each weight: NAME.in_sum2 (columns, matrices)
and NAME.counts (1, matrices). Source: llama.cpp, common/imatrix-loader.cpp and tools/imatrix/imatrix.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantize.imatrix.matrix import Entry, Floats, Imatrix, merge
from turbopilot.base.atomic import check_output, replacing
from turbopilot.base.errors import CorruptModel, InvalidInput, QuantizationError
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _N_CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_LONGEST_NAME = 63  # GGML_MAX_NAME in ggml.h, without the terminating zero
_DAMAGED = "the file is damaged: download it again, or create one with turbopilot imatrix MODEL"


def read_imatrix(path: Path) -> Imatrix:
    """Read an importance matrix in GGUF format. llama.cpp's older .dat format is not supported.

    Raises:
        InvalidInput: the file does not exist, or is not an importance matrix.
        CorruptModel: the file is inconsistent, or a sum is negative or not finite.
    """
    if path.is_file():
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise InvalidInput(
                    f"{path}: is not a GGUF importance matrix; llama.cpp's older .dat format is not supported",
                    hint=f"convert a .dat with llama.cpp: llama-imatrix --in-file {path.name} -o {path.stem}.gguf; "
                    "or create a matrix: turbopilot imatrix MODEL",
                )
    header = read_gguf(path)
    tensors = {t.name: t for t in header.tensors}
    names = {n.removesuffix(s) for n in tensors for s in (_SUMS, _COUNTS) if n.endswith(s)}
    if not names:
        raise InvalidInput(
            f"{path}: does not contain an importance matrix",
            hint="if the file is a model, create a matrix from it: turbopilot imatrix MODEL",
        )
    entries = {name: _entry(path, name, tensors) for name in sorted(names)}
    return Imatrix(entries, *_metadata(header))


def _metadata(header: GgufHeader) -> tuple[tuple[str, ...], int, int]:
    """Return the names of the texts, the number of chunks, and the tokens in a chunk."""
    datasets: Any = header.metadata.get(_DATASETS, [])
    if not (isinstance(datasets, list) and all(isinstance(d, str) for d in datasets)):
        raise CorruptModel(f"{header.path}: {_DATASETS} is not a list of names", hint=_DAMAGED)
    numbers: list[int] = []
    for key, least in ((_N_CHUNKS, 0), (_CHUNK_SIZE, 1)):
        value = header.metadata.get(key)
        if type(value) is not int or value < least:
            raise CorruptModel(
                f"{header.path}: {key} is {quoted(value)}, not an integer of at least {least}",
                hint=_DAMAGED,
            )
        numbers.append(value)
    return tuple(datasets), numbers[0], numbers[1]


def _entry(path: Path, name: str, tensors: Mapping[str, TensorInfo]) -> Entry:
    def corrupt(what: str) -> CorruptModel:
        return CorruptModel(f"{path}: {name}{what}", hint=_DAMAGED)

    arrays: list[Floats] = []
    for suffix in (_SUMS, _COUNTS):
        if (tensor := tensors.get(name + suffix)) is None:
            raise corrupt(f"{suffix} is missing")
        if tensor.type_name != "F32":
            raise corrupt(f"{suffix} is {tensor.type_name}, not F32")
        arrays.append(
            np.fromfile(tensor.path, np.dtype("<f4"), tensor.n_weights, offset=tensor.offset)
        )
    sums, counts = arrays
    if sums.size % counts.size:
        raise corrupt(f": {sums.size:,} sums are not a multiple of {counts.size:,} counts")
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts < 2.0**62).all()):
        raise corrupt(f"{_COUNTS} contains values that are not token counts")
    if not np.isfinite(sums).all():
        raise corrupt(": a sum is not finite")
    if (sums < 0).any():
        raise corrupt(": a sum of squares is negative")
    return Entry(sums.reshape(counts.size, -1), np.rint(counts.astype(np.float64)).astype(np.int64))


def write_imatrix(
    path: Path, imatrix: Imatrix, extra_metadata: Mapping[str, str] | None = None
) -> None:
    """Write an importance matrix with the same bytes as llama-imatrix, and `extra_metadata` after its keys."""
    from gguf import GGUFValueType, GGUFWriter

    class Writer(GGUFWriter):  # type: ignore[misc]  # gguf is untyped here
        def add_architecture(self) -> None:
            """Write no architecture, because an importance matrix is not a model."""

    if not imatrix.entries:
        raise QuantizationError(
            f"{path}: the importance matrix has no entries",
            hint="gather one from a text: turbopilot imatrix MODEL",
        )
    writer = Writer(path=None, arch="")
    writer.add_string("general.type", "imatrix")
    datasets = [d.encode("utf-8", "replace").decode() for d in imatrix.datasets or ("unknown",)]
    writer.add_key_value(_DATASETS, datasets, GGUFValueType.ARRAY, GGUFValueType.STRING)
    writer.add_uint32(_N_CHUNKS, imatrix.n_chunks)
    writer.add_uint32(_CHUNK_SIZE, imatrix.chunk_size)
    for key, value in (extra_metadata or {}).items():
        writer.add_string(key, value)
    for name, entry in sorted(imatrix.entries.items()):
        if len(name.encode()) + len(_SUMS) > _LONGEST_NAME:
            raise QuantizationError(
                f"{path}: the tensor name {name} is too long for an importance matrix",
                hint=f"ggml's tensor names are limited to {_LONGEST_NAME} bytes, including {_SUMS}",
            )
        # ggml omits outer dimensions of 1.
        alone = len(entry.counts) == 1
        sums = np.ascontiguousarray(entry.sums, np.float32)
        counts = entry.counts.astype(np.float32)
        writer.add_tensor(name + _SUMS, sums.reshape(-1) if alone else sums)
        writer.add_tensor(name + _COUNTS, counts if alone else counts[:, None])
    with replacing(path) as part:
        try:
            writer.write_header_to_file(part)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def merge_files(paths: Sequence[Path], output: Path, *, force: bool = False) -> Imatrix:
    """Merge one or more importance matrix files of the same model into `output`; see `merge`."""
    matrices = [read_imatrix(path) for path in paths]
    check_output(output, force=force, inputs=tuple(paths))
    merged = merge(matrices)
    write_imatrix(output, merged)
    return merged
