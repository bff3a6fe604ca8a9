"""What a model takes of memory, by arithmetic over its header."""

from __future__ import annotations

from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.file import GgufHeader


def kv_bytes_per_token(header: GgufHeader, cache_type: str) -> int:
    """Return the bytes of the KV cache that a token takes; 0 if the header does not say it."""

    def value(name: str) -> int:
        found = header.metadata.get(f"{header.architecture}.{name}", 0)
        return found if isinstance(found, int) else 0

    heads, width = value("attention.head_count"), value("embedding_length")
    layers, heads_kv = value("block_count"), value("attention.head_count_kv") or heads
    if not (heads and width and layers):
        return 0
    size = value("attention.key_length") or width // heads
    size += value("attention.value_length") or width // heads
    weights, n_bytes = next(
        (w, b) for name, w, b in GGML_TYPES.values() if name.lower() == cache_type
    )
    return layers * heads_kv * size * n_bytes // weights
