"""Helpers for tests of quantization: GGUF files without weights, and llama.cpp's plan for them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from quantize import QuantizeOptions, Recipe
from quantize.recipes import TENSOR_TYPES
from turbopilot.formats.gguf.file import GgufHeader

USUAL = {
    "context_length": 64, "embedding_length": 256, "feed_forward_length": 256, "block_count": 1,
    "attention.head_count": 4, "rope.dimension_count": 64,
}  # fmt: skip
_LINE = re.compile(r"\[\s*\d+/\s*\d+\]\s+(?P<name>\S+) .*type =\s*(?P<before>\w+), size")
_BECOMES = re.compile(r"->.*\((?P<type>\w+)\)\s*$")
_SILENT = llama_cpp.llama_log_callback(lambda *_: None)
_FELL = re.compile(r"warning: (?P<name>\S+) .*\(required for type\s+(?P<wanted>\w+)\)")


def empty_model(
    path: Path, architecture: str, shapes: Mapping[str, tuple[int, ...]], **values: int
) -> Path:
    """Write a sparse GGUF with F16 tensors of `shapes` (outermost first), which takes almost no space on the disk."""
    writer = gguf.GGUFWriter(path, architecture)
    values = {key.replace("__", "."): value for key, value in values.items()}
    for key, value in {**USUAL, **values}.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for epsilon in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        writer.add_float32(f"{architecture}.attention.{epsilon}", 1e-5)
    size = 0
    for name, shape in shapes.items():
        n_bytes = 2 * int(np.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float16), n_bytes)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        file.truncate(-(-end // 32) * 32 + size)
    return path


def planned_by_llama_cpp(
    header: GgufHeader, recipe: Recipe, options: QuantizeOptions
) -> list[tuple[str, str, str]] | None:
    """Return llama.cpp's plan for each tensor: (name, type, wanted type); None if llama.cpp refuses.

    The wanted type is "" if the tensor's rows fit it.
    """
    lines: list[str] = []
    callback = llama_cpp.llama_log_callback(lambda level, text, _: lines.append(text.decode()))
    params = llama_cpp.llama_model_quantize_default_params()
    params.dry_run, params.ftype, params.pure = True, recipe.ftype, options.pure
    if options.output_type:
        params.output_tensor_type = TENSOR_TYPES[options.output_type]
    if options.embedding_type:
        params.token_embedding_type = TENSOR_TYPES[options.embedding_type]
    overrides = (llama_cpp.llama_model_tensor_override * (len(options.overrides) + 1))()
    for entry, override in zip(overrides, options.overrides, strict=False):
        entry.pattern, entry.type = override.pattern.encode(), TENSOR_TYPES[override.type_name]
    params.tt_overrides = overrides
    matrix = (llama_cpp.llama_model_imatrix_data * 1)()  # its contents do not matter
    if options.imatrix:
        params.imatrix = matrix
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        code = llama_cpp.llama_model_quantize(str(header.path).encode(), b"", ctypes.byref(params))
    finally:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    return None if code else _planned("".join(lines), header)


def _planned(log: str, header: GgufHeader) -> list[tuple[str, str, str]]:
    before = {t.name: t.type_name for t in header.tensors}
    wanted: dict[str, str] = {}
    found: dict[str, str] = {}
    for line in log.splitlines():
        if fell := _FELL.search(line):
            wanted[fell["name"]] = fell["wanted"].upper()
        elif named := _LINE.match(line):
            becomes = _BECOMES.search(line)
            found[named["name"]] = becomes["type"].upper() if becomes else before[named["name"]]
    assert len(found) == len(before)
    return [(name, kind, wanted.get(name, "")) for name, kind in found.items()]
