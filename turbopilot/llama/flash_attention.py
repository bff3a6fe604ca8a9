"""Whether llama.cpp should use its flash attention. A leaf: knows llama.cpp's numbers, not llama.cpp.

On a processor without a GPU its kernel for one token is slow: after 512 tokens, SmolLM2-135M took 25 ms a token with it
and 11 ms without, after 2,048 tokens 43 and 20 (2 cores with AVX-512; prompts took the same, beyond 1,000
tokens up to 20 % longer). Without it, the scores of every token of a batch with every token before it are in memory at
once.
"""

from __future__ import annotations

from typing import Final

from turbopilot.base.machine import total_bytes
from turbopilot.formats.gguf.file import GgufHeader

# Source: enum llama_flash_attn_type in llama.h.
AUTO: Final = -1
OFF: Final = 0
ON: Final = 1
# Tokens that are computed at once, at most: llama.cpp's own n_ubatch, as larger ones only cost memory.
UBATCH: Final = 512
# Of what the model and its context leave of this machine's memory, what the scores may take.
SCORES_SHARE: Final = 8
# Values in other types are read by flash attention alone.
_PLAIN: Final = {"f32", "f16", "bf16"}


def flash_attention(
    header: GgufHeader,
    *,
    n_ctx: int,
    n_batch: int,
    kv_bytes: int,
    cache_type: str,
    uses_gpu: bool,
    wanted: bool | None = None,
) -> int:
    """One of llama.cpp's numbers.

    Args:
        header: the model's.
        n_ctx: most tokens that one token is compared with.
        n_batch: most tokens of a batch, of which UBATCH are computed at once.
        kv_bytes: what the KV cache takes.
        cache_type: what keys and values are kept in.
        uses_gpu: whether layers are computed on one: llama.cpp knows where it is faster there.
        wanted: what the user wants; None is whatever is faster and fits.
    """
    if cache_type.lower() not in _PLAIN:
        return ON
    if wanted is not None:
        return ON if wanted else OFF
    if uses_gpu:
        return AUTO
    left = total_bytes() - header.tensor_bytes - kv_bytes
    return OFF if scores_bytes(header, n_ctx, min(n_batch, UBATCH)) * SCORES_SHARE <= left else AUTO


def scores_bytes(header: GgufHeader, n_ctx: int, n_batch: int) -> int:
    """Bytes of the scores of one layer: a number for each head, token and token before it."""
    heads = header.metadata.get(f"{header.architecture}.attention.head_count", 0)
    return 4 * n_ctx * n_batch * (heads if isinstance(heads, int) else 0)
