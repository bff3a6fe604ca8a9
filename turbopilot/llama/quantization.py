"""llama.cpp's quantizer, which converts one GGUF to another."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from turbopilot.llama.library import llama_cpp, start_backend

# Maximum bytes of rows in memory. With the default of 8 GiB, llama.cpp may hold a whole embedding in memory, also in
# F32. The output is the same.
_MAX_BUFFER: Final = 256 << 20
_TAG_INT, _TAG_STR = 0, 3  # enum llama_model_kv_override_type in llama.h


def quantize(
    paths: tuple[str, str],
    fields: Mapping[str, Any],
    overrides: Sequence[tuple[str, int]],
    metadata: Mapping[str, str | int],
    means: Mapping[str, npt.NDArray[np.float32]] | None,
) -> bool:
    """Quantize a file; return False if llama.cpp failed, with the reason in the log or on stderr.

    Args:
        paths: source and output.
        fields: fields of llama_model_quantize_params; None keeps the default.
        overrides: (pattern of tensor names, ggml type number).
        metadata: keys to add; texts have at most 127 bytes.
        means: tensor name → mean squares of its input channels.
    """
    start_backend()
    params = llama_cpp.llama_model_quantize_default_params()
    params.max_buf_size = _MAX_BUFFER
    for name, value in fields.items():
        if value is not None:
            setattr(params, name, value)
    # Each table ends with an empty entry. ctypes keeps the tables alive.
    types = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, (pattern, number) in zip(types, overrides, strict=False):
        entry.pattern, entry.type = pattern.encode(), number
    keys = (llama_cpp.llama_model_kv_override * (len(metadata) + 1))()
    for entry, (key, value) in zip(keys, metadata.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, int):
            entry.tag, entry.value.val_i64 = _TAG_INT, value
        else:
            entry.tag, entry.value.val_str = _TAG_STR, value.encode()[:127]
    params.tt_overrides, params.kv_overrides = types, keys
    if means is not None:
        matrix = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
        for entry, (name, values) in zip(matrix, means.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = matrix
    source, output = map(os.fsencode, paths)
    return not llama_cpp.llama_model_quantize(source, output, ctypes.byref(params))
