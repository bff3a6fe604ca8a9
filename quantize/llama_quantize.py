"""The process that quantizes: the only module here that imports llama_cpp for it. Started by `quantize.quantizer`."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from turbopilot.llama.child import leave, listen, read_job, tell

# Rows that llama.cpp keeps at once, in bytes. Its default of 8 GiB takes a whole embedding into memory, in F32
# beside its own type; the bytes that are written do not depend on it.
_MAX_BUFFER = 256 << 20
_TAG_INT, _TAG_STR = 0, 3  # llama.h, enum llama_model_kv_override_type


def main() -> None:
    """Plan with a dry run, say so with {"planned": true}, then quantize, unless that was all that was asked.

    The job: {"source", "output", "ftype", "threads", "output_type", "embedding_type", "overrides": [[pattern,
    type]], "pure", "keep_split", "allow_requantize", "imatrix": path or null, "metadata": {key: text or
    number}, "dry_run"}; types are ggml's numbers, or null. Leaves with llama.cpp's code.
    """
    job = read_job()
    import llama_cpp

    listen(llama_cpp)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = job["threads"]
    params.pure = job["pure"]
    params.keep_split = job["keep_split"]
    params.allow_requantize = job["allow_requantize"]
    params.max_buf_size = _MAX_BUFFER
    for field, number in (
        ("output_tensor_type", job["output_type"]),
        ("token_embedding_type", job["embedding_type"]),
    ):
        if number is not None:
            setattr(params, field, number)
    # Whatever C points to must live until the end: `kept` holds it.
    kept: list[Any] = [
        _overrides(llama_cpp, params, job["overrides"]),
        _metadata(llama_cpp, params, job["metadata"]),
        _imatrix(llama_cpp, params, job["imatrix"]) if job["imatrix"] else None,
    ]
    paths = os.fsencode(job["source"]), os.fsencode(job["output"])
    params.dry_run = True
    if llama_cpp.llama_model_quantize(*paths, ctypes.byref(params)):
        leave(1)
    tell({"planned": True})
    params.dry_run = False
    failed = not job["dry_run"] and llama_cpp.llama_model_quantize(*paths, ctypes.byref(params))
    del kept
    leave(1 if failed else 0)


def _overrides(lib: Any, params: Any, overrides: list[tuple[str, int]]) -> Any:
    """Ends with an entry without a pattern."""
    table = (lib.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, (pattern, number) in zip(table, overrides, strict=False):
        entry.pattern, entry.type = pattern.encode(), number
    params.tt_overrides = table
    return table


def _metadata(lib: Any, params: Any, metadata: dict[str, str | int]) -> Any:
    """Ends with an entry without a key. A text has 127 bytes at most."""
    table = (lib.llama_model_kv_override * (len(metadata) + 1))()
    for entry, (key, value) in zip(table, metadata.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, int):
            entry.tag, entry.value.val_i64 = _TAG_INT, value
        else:
            entry.tag, entry.value.val_str = _TAG_STR, value.encode()[:127]
    params.kv_overrides = table
    return table


def _imatrix(lib: Any, params: Any, path: str) -> Any:
    """Ends with an entry without a name."""
    from quantize.imatrix import read_imatrix

    means = read_imatrix(Path(path)).means()
    table = (lib.llama_model_imatrix_data * (len(means) + 1))()
    for entry, (name, values) in zip(table, means.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = table
    return table, means


if __name__ == "__main__":
    main()
