"""Decide whether llama.cpp must or must not use flash attention.

Without flash attention, the attention scores of every token of a batch with every earlier token are in memory at once.
On a CPU, which one is faster depends on the processor, so `serve.llama.tuning` measures it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from turbopilot.base.machine import total_bytes
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.geometry import header_geometry

if TYPE_CHECKING:
    from turbopilot.llama.context import ContextParameters

# Source: enum llama_flash_attn_type in llama.h.
AUTO: Final = -1
OFF: Final = 0
ON: Final = 1
# The scores may take 1/8 of the memory that the model and its KV cache leave.
SCORES_SHARE: Final = 8
PLAIN: Final = frozenset({"f32", "f16", "bf16"})
"""Types of the KV cache that plain attention supports; for others, flash attention is needed."""


def flash_attention(
    header: GgufHeader, context: ContextParameters, *, uses_gpu: bool, wanted: bool | None = None
) -> int | None:
    """Return AUTO (llama.cpp decides), OFF or ON; None if both are possible, and the faster one should be used.

    Args:
        header: the model file.
        context: parameters of the context.
        uses_gpu: whether layers are on a GPU.
        wanted: the user's choice, or None.
    """
    if context.cache_type not in PLAIN:
        return ON
    if wanted is not None:
        return ON if wanted else OFF
    if uses_gpu:
        return AUTO
    kv_bytes = header_geometry(header).kv_bytes(context.n_ctx, context.cache_type)
    left = total_bytes() - header.tensor_bytes - kv_bytes
    scores = scores_bytes(header, context.n_ctx_seq, context.n_ubatch)
    return None if scores * SCORES_SHARE <= left else AUTO


def scores_bytes(header: GgufHeader, n_ctx: int, n_batch: int) -> int:
    """Return the bytes of the attention scores of one layer: a float32 for each head, token and earlier token."""
    heads = header.metadata.get(f"{header.architecture}.attention.head_count", 0)
    return 4 * n_ctx * n_batch * (heads if isinstance(heads, int) else 0)
