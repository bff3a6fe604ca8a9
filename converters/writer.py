"""Writer for GGUF files: the header, then the data of each tensor as a stream."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType

from converters.planned import PlannedTensor
from converters.stream import TensorWriter, write_all
from turbopilot.formats.gguf.cursor import Value

ALIGNMENT = 32  # bytes; GGUF's default, which every reader supports


def header(
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: Sequence[PlannedTensor],
    *,
    part: tuple[int, int, int] | None = None,
    file_type: str = "F16",
) -> bytes:
    """Return the part of a GGUF before its tensor data, padded to `ALIGNMENT`.

    `metadata` contains every key except the architecture. For a split model, `part` is (index of this file, number of
    files, total number of tensors), the values that llama.cpp's gguf-split writes.
    """
    writer = GGUFWriter(path=None, arch=architecture)
    if part:
        writer.add_uint16("split.no", part[0])
        writer.add_uint16("split.count", part[1])
        writer.add_int32("split.tensors.count", part[2])
    if metadata:  # only the first part of a split model has metadata
        kind = "ALL_F32" if file_type == "F32" else f"MOSTLY_{file_type}"
        writer.add_file_type(LlamaFileType[kind])
        writer.add_quantization_version(GGML_QUANT_VERSION)
    for key, value in metadata.items():
        _add(writer, key, value)
    for t in tensors:
        raw = GGMLQuantizationType[t.dtype]
        writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.n_bytes, raw_dtype=raw)
    with tempfile.TemporaryDirectory() as folder:  # GGUFWriter writes to named files only
        path = Path(folder) / "header"
        writer.write_header_to_file(path)
        try:
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        whole = path.read_bytes()
    return whole + bytes(-len(whole) % ALIGNMENT)


def write_data(out: FileIO, tensors: Sequence[PlannedTensor], writer: TensorWriter) -> None:
    """Append every tensor to `out`, each aligned to 32 bytes."""
    for t in tensors:
        writer.write(out, t)
        write_all(out, bytes(-t.n_bytes % ALIGNMENT))


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
