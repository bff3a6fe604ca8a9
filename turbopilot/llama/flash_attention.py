"""Decide whether llama.cpp uses flash attention.

Its CPU kernel for one token is slow: after 512 tokens, SmolLM2-135M took 25 ms a token with it and 11 ms without, after
2,048 tokens 43 and 20 (2 cores with AVX-512; prompts took the same, beyond 1,000 tokens up to 20 % longer). Without it,
the scores of every token of a batch with every earlier token are in memory at once.
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
# The scores may take 1/8 of the memory that the model and its context leave.
SCORES_SHARE: Final = 8
# Only flash attention reads values in other types.
_PLAIN: Final = {"f32", "f16", "bf16"}


def flash_attention(
    header: GgufHeader, context: ContextParameters, *, uses_gpu: bool, wanted: bool | None = None
) -> int:
    """Return AUTO (llama.cpp decides, on a GPU), OFF or ON; `wanted` of None is the faster choice that fits."""
    if context.cache_type not in _PLAIN:
        return ON
    if wanted is not None:
        return ON if wanted else OFF
    if uses_gpu:
        return AUTO
    kv_bytes = header_geometry(header).kv_bytes(context.n_ctx, context.cache_type)
    left = total_bytes() - header.tensor_bytes - kv_bytes
    scores = scores_bytes(header, context.n_ctx_seq, context.n_ubatch)
    return OFF if scores * SCORES_SHARE <= left else AUTO


def scores_bytes(header: GgufHeader, n_ctx: int, n_batch: int) -> int:
    """Return the bytes of one layer's scores: a float32 for each head, token and earlier token."""
    heads = header.metadata.get(f"{header.architecture}.attention.head_count", 0)
    return 4 * n_ctx * n_batch * (heads if isinstance(heads, int) else 0)
