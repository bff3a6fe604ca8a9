"""From a GGUF to a decoder.

A GGUF's header is checked before llama.cpp sees it, since some malformed ones make it abort the process.
"""

from __future__ import annotations

import ctypes
import os
from functools import partial
from pathlib import Path
from typing import Any, Final

import llama_cpp
from llama_cpp._ggml import libggml

from serve.llama.decoder import GUESSES, LlamaDecoder
from serve.llama.facts import choose_context, describe
from serve.llama.log import capture
from serve.llama.report import LoadReport
from serve.settings import ModelOptions, find_cache_type
from turbopilot.base.errors import CorruptModel, ServeError
from turbopilot.base.machine import usable_cores
from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.devices import gpu_devices
from turbopilot.llama.flash_attention import ON, UBATCH, flash_attention
from turbopilot.llama.footprint import KvLayout, choose_layout, choose_prefix_cache
from turbopilot.llama.geometry import header_geometry

ALL_LAYERS: Final = 999  # llama.cpp caps it at what there is
_TYPE_NUMBER: Final = {name.lower(): number for number, (name, _, _) in GGML_TYPES.items()}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """llama.cpp keeps a pointer to this: as a module's global it is never collected."""
    capture.write(level, text)


def load(path: Path, options: ModelOptions) -> tuple[LlamaDecoder, LoadReport]:
    """Load a GGUF, and say what was really set up.

    Raises:
        InvalidInput: the file cannot be read, or an option does not fit it.
        CorruptModel: it is damaged, or llama.cpp refuses it; with llama.cpp's own reason.
        ServeError: llama.cpp loads it but cannot run it as asked, as where memory is short.
    """
    find_cache_type(options.cache_type)
    header = read_gguf(path)
    check_model(header)
    n_ctx = choose_context(header, options.ctx)
    geometry = header_geometry(header)
    layout = choose_layout(geometry, n_ctx, options.n_seq, options.cache_type)

    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    capture.clear()
    devices = tuple(str(d) for d in gpu_devices(libggml))
    n_gpu_layers = options.n_gpu_layers
    if n_gpu_layers is None:
        n_gpu_layers = ALL_LAYERS if devices else 0

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise CorruptModel(
            f"{path}: llama.cpp cannot load it: {capture.last_errors() or 'no reason given'}",
            hint="convert or download it again; if it is new, update llama-cpp-python",
        )
    try:
        if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
            raise ServeError(f"{path}: {header.architecture} is no model that completes text")
        attention = flash_attention(
            header,
            n_ctx=n_ctx,
            n_batch=options.n_batch,
            kv_bytes=geometry.kv_bytes(layout.n_cells(n_ctx), options.cache_type),
            cache_type=options.cache_type,
            uses_gpu=bool(devices) and n_gpu_layers > 0,
            wanted=options.flash_attention,
        )
        make = partial(_make_context, model, path, n_ctx, layout, options, attention)
        context = make()
    except BaseException:
        llama_cpp.llama_model_free(model)
        raise

    # Without a device llama.cpp still says "offloaded": into nowhere.
    n_offloaded, n_layers = capture.offloaded() or (0, 0)
    decoder = LlamaDecoder(model, context, make, header, n_ctx, layout, options)
    report = LoadReport(
        name=decoder.name,
        n_ctx=n_ctx,
        has_fim=decoder.fim is not None,
        n_threads=options.threads or usable_cores(),
        n_parallel=layout.n_seq,
        is_split=layout.is_split,
        cache_type=options.cache_type,
        kv_bytes=capture.kv_bytes(),
        prefix_bytes=choose_prefix_cache(header.tensor_bytes + capture.kv_bytes()),
        n_offloaded=n_offloaded if devices else 0,
        n_layers=n_layers or int(llama_cpp.llama_model_n_layer(model)) + 1,
        devices=devices,
        description=describe(header),
    )
    return decoder, report


def _make_context(
    model: Any, path: Path, n_ctx: int, layout: KvLayout, options: ModelOptions, attention: int
) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = layout.n_cells(n_ctx)
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_batch, UBATCH)
    params.n_seq_max = layout.n_seq
    # By itself llama.cpp reserves logits for a whole batch.
    params.n_outputs_max = min(options.n_batch, layout.n_seq + GUESSES)
    params.kv_unified = not layout.is_split
    params.n_threads = params.n_threads_batch = options.threads or usable_cores()
    params.type_k = params.type_v = _TYPE_NUMBER[options.cache_type]
    params.flash_attn_type = attention
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        what = f"{path}: no context of {n_ctx} tokens"
        reason = capture.last_errors() or "no reason given"
        if attention == ON:
            raise ServeError(
                f"{what} with flash attention and a {options.cache_type} cache: {reason}",
                hint="not every model and device can have them: try --cache-type f16 --flash-attn off",
            )
        raise ServeError(
            f"{what}: {reason}",
            hint="memory may be short: give a smaller --ctx, a smaller --cache-type, or fewer --n-gpu-layers",
        )
    return context
