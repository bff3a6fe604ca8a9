"""Context length, memory use, name and chat template of a model file."""

from __future__ import annotations

from typing import Final

from serve.settings import ModelOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.footprint import (
    DEFAULT_CONTEXT,
    choose_layout,
    choose_prefix_cache,
    default_context,
    footprint,
)
from turbopilot.llama.geometry import header_geometry

LEAST_CONTEXT: Final = 64


def choose_context(header: GgufHeader, wanted: int | None) -> int:
    """Return the context length to use, in tokens; raise InvalidInput if the model does not support `wanted`."""
    value = header.metadata[f"{header.architecture}.context_length"]
    trained = value if isinstance(value, int) else DEFAULT_CONTEXT
    if wanted is None:
        return default_context(trained)
    if wanted < LEAST_CONTEXT:
        raise InvalidInput(
            f"--ctx {wanted}: too small for any completion", hint=f"use at least {LEAST_CONTEXT}"
        )
    if header_geometry(header).positions and wanted > trained:  # learned position vectors
        raise InvalidInput(
            f"--ctx {wanted}: {header.path.name} has position vectors for only {trained} tokens",
            hint=f"use at most {trained}",
        )
    return wanted


def memory_bytes(header: GgufHeader, options: ModelOptions, prefix_bytes: int | None) -> int:
    """Return the estimated memory of a loaded model and its prefix cache; None for `prefix_bytes` is the default."""
    n_ctx, geometry = choose_context(header, options.ctx), header_geometry(header)
    kind, n_batch = options.cache_type, options.n_batch
    layout = choose_layout(geometry, n_ctx, options.n_seq, kind)
    weights = header.tensor_bytes
    taken = footprint(geometry, weights, n_ctx, layout, cache_type=kind, n_batch=n_batch)
    if prefix_bytes is None:
        prefix_bytes = choose_prefix_cache(taken.weights + taken.kv_cache)
    return taken.model + prefix_bytes


def model_name(header: GgufHeader) -> str:
    """Return the model's name from the metadata, or the file's stem if that is missing or unusable."""
    name = header.metadata.get("general.name")
    usable = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    return str(name) if usable else header.path.stem


def chat_template(header: GgufHeader, known: str = "") -> str:
    """Return the file's chat template, or `known` if it has none."""
    template = header.metadata.get("tokenizer.chat_template")
    return template if isinstance(template, str) and template else known
