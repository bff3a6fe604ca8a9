"""Writes a GGUF: header first, then each tensor as it streams by. The only module that imports gguf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from converters.checkpoint import Checkpoint
from converters.plan import Plan
from converters.stream import blocks
from converters.tokenizer import GgufTokenizer
from turbopilot.progress import Progress

FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
}


def write_gguf(
    path: Path,
    plan: Plan,
    tokenizer: GgufTokenizer,
    general: Mapping[str, str],
    checkpoint: Checkpoint,
    *,
    dtype: str,
    keep_nonfinite: bool,
    progress: Progress,
) -> None:
    """Write the planned file to `path`. `general` becomes the general.* strings."""
    writer = GGUFWriter(path=None, arch=plan.spec.gguf)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(2)
    for key, text in general.items():
        writer.add_string(f"general.{key}", text)
    for key, value in plan.keys.items():
        _add(writer, f"{plan.spec.gguf}.{key}", value)
    _add_tokenizer(writer, tokenizer)
    for t in plan.tensors:
        writer.add_tensor_info(
            t.name,
            t.shape,
            np.dtype(np.float32),
            t.n_bytes,
            raw_dtype=GGMLQuantizationType[t.dtype],
        )
    writer.write_header_to_file(path)
    try:
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        done = 0
        for t in plan.tensors:
            for block in blocks(checkpoint, t, keep_nonfinite=keep_nonfinite):
                out.write(np.ascontiguousarray(block).data)
                done += block.nbytes
                progress(done, plan.n_bytes, t.name)
            writer.write_padding(out, t.n_bytes)
    finally:
        writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
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


def _add_tokenizer(writer: GGUFWriter, t: GgufTokenizer) -> None:
    writer.add_tokenizer_model(t.model)
    writer.add_tokenizer_pre(t.pre)
    writer.add_token_list(t.tokens)
    writer.add_token_types(t.types)
    writer.add_token_merges(t.merges)
    writer.add_add_bos_token(t.add_bos)
    for role, token_id in t.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token_id)
