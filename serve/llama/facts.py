"""Context length, memory use, name and other facts of a model file."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from serve.llama.tuning import CELLS
from serve.prompt.bound_layout import FimLayouts
from serve.prompt.layout_choice import choose_layouts
from serve.settings import ModelOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.base.machine import free_bytes
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.device_memory import ContextNeed, model_parts
from turbopilot.llama.footprint import (
    DEFAULT_CONTEXT,
    LEAST_SPLIT_CONTEXT,
    PREFIX_SHARE,
    choose_layout,
    choose_prefix_cache,
    default_context,
)
from turbopilot.llama.geometry import header_geometry
from turbopilot.llama.placement import Placement, place
from turbopilot.llama.placement_wish import Machine, PlacementWish

LEAST_CONTEXT: Final = 64
SMALLER_CACHE: Final = "q8_0"
"""Type of the KV cache that is recommended if layers do not fit: half of f16's memory, with almost no loss."""
GUESSES: Final = 16
"""Rows of logits for draft tokens, in addition to one per sequence."""


def plan(header: GgufHeader, options: ModelOptions, free: Machine | None = None) -> Placement:
    """Return the context of each sequence, the layout of the KV cache, and the places of a model's parts.

    Args:
        header: a checked model file.
        options: what the user wants.
        free: free memory; None means main memory alone.

    Raises:
        InvalidInput: the model does not support the requested context.
    """
    free = free or Machine((), free_bytes())
    wish = options.devices.wish
    n_ctx = _context(header, options.ctx)
    contexts = [n_ctx]
    while options.ctx is None and contexts[-1] >= 2 * LEAST_SPLIT_CONTEXT:
        contexts.append(contexts[-1] // 2)
    parts = model_parts(header, wish.tensor_overrides)
    room = sum(wish.room(free.devices)) if wish.n_gpu_layers != 0 else 0
    if room <= header.tensor_bytes:  # some layers stay in main memory
        room += free.free
    n_ctx, layout = choose_layout(
        parts.geometry, header.tensor_bytes, contexts, options.n_seq, options.cache_type, room
    )
    needs = [
        ContextNeed(
            n, layout, options.cache_type, options.n_batch, min(options.n_batch, layout.n_seq + GUESSES),
            has_scores=options.flash_attention is False,
        )
        for n in contexts[contexts.index(n_ctx) :]
    ]  # fmt: skip
    return place(parts, needs, free, wish)


def plain_attention_fits(
    header: GgufHeader, placement: Placement, free: Machine, wish: PlacementWish
) -> bool:
    """Return whether plain attention fits on the devices of a placement, beside a context that measures it."""
    need = replace(placement.need, n_ctx=placement.need.n_ctx + CELLS, has_scores=True)
    same = replace(wish, n_gpu_layers=placement.n_gpu_layers)
    found = place(model_parts(header, wish.tensor_overrides), [need], free, same)
    return found.fits and found.counts == placement.counts


def cache_type_advice(
    header: GgufHeader, placement: Placement, free: Machine, options: ModelOptions
) -> str:
    """Return how many more layers would be on devices with a smaller KV cache; "" if there is nothing to gain."""
    need, wish = placement.need, options.devices.wish
    parts = model_parts(header, wish.tensor_overrides)
    n, n_all = placement.n_gpu_layers, len(parts.layers) + 1
    can_shrink = need.cache_type in ("f32", "f16", "bf16") and options.flash_attention is not False
    if not placement.shares or wish.n_gpu_layers is not None or n == n_all or not can_shrink:
        return ""
    smaller = place(parts, [replace(need, cache_type=SMALLER_CACHE)], free, wish).n_gpu_layers
    if smaller <= n:
        return ""
    return f"--cache-type {SMALLER_CACHE} would put {smaller} instead of {n} of {n_all} layers on devices"


def _context(header: GgufHeader, wanted: int | None) -> int:
    trained = trained_context(header)
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


def trained_context(header: GgufHeader) -> int:
    """Return the context that the model was trained with, in tokens."""
    value = header.metadata[f"{header.architecture}.context_length"]
    return value if isinstance(value, int) else DEFAULT_CONTEXT


def prefix_bytes(n_bytes: int, budget: int, n_models: int) -> int:
    """Return the default limit of a model's prefix cache.

    Args:
        n_bytes: bytes that the model will take.
        budget: bytes that all models may take.
        n_models: number of models that share the free memory.
    """
    room = max(0, budget - n_bytes) // PREFIX_SHARE
    return min(choose_prefix_cache(n_bytes), room) // n_models


def model_name(header: GgufHeader) -> str:
    """Return the model's name from the metadata, or the file's stem if that is missing or unusable."""
    return _name(header, "general.name") or header.path.stem


def model_family(header: GgufHeader) -> str:
    """Return the checkpoint's architecture, such as CodeGen, or that of the file, which for CodeGen is phi2.

    `turbopilot convert` stores the class in transformers; files from other converters do not have it.
    """
    architecture = _name(header, "turbopilot.source.architecture").removesuffix("ForCausalLM")
    return architecture or header.architecture


def _name(header: GgufHeader, key: str) -> str:
    """Return a name from the metadata; "" if it is missing or unusable."""
    name = header.metadata.get(key)
    usable = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    return str(name) if usable else ""


def chat_template(header: GgufHeader, known: str = "") -> str:
    """Return the file's chat template, or `known` if it has none."""
    template = header.metadata.get("tokenizer.chat_template")
    return template if isinstance(template, str) and template else known


def fim_layouts(header: GgufHeader, options: ModelOptions) -> FimLayouts | None:
    """Return the layouts of fill-in-the-middle prompts; None if the vocabulary has no tokens for them.

    Raises:
        InvalidInput: the vocabulary lacks a token of the requested layout.
    """
    return choose_layouts(
        header.metadata, wanted=options.fim_layout, known=options.known_fim, file=header.path.name
    )


def special_text(header: GgufHeader, kind: str) -> str:
    """Return the text of a special token, such as "bos"; "" if the file does not name one."""
    token, texts = (
        header.metadata.get(f"tokenizer.ggml.{key}") for key in (f"{kind}_token_id", "tokens")
    )
    if not isinstance(token, int) or not isinstance(texts, list) or not 0 <= token < len(texts):
        return ""
    return str(texts[token])
