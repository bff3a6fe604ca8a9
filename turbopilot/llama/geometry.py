"""Sizes of a model's network, and the bytes of its weights and KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from turbopilot.formats.ggml_types import BLOCKS, n_bytes
from turbopilot.llama.mixture import Mixture, fallback, is_quantized

if TYPE_CHECKING:
    from turbopilot.formats.gguf.file import GgufHeader

TYPES: Final = {"F16": "F16", "Q8_0": "Q8_0", "Q4_K_M": "Q4_K", "Q4_0": "Q4_0"}
"""File types whose sizes are predicted from a geometry, and their base types."""


class Matrix(NamedTuple):
    """A weight matrix: its role (name in a GGUF), its shape, and the number of layers that have it."""

    role: str
    rows: int
    columns: int
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that determine the memory of a model's weights and KV cache.

    Attributes:
        vocab: rows of the token embedding.
        tied: whether the token embedding is also the output head.
        gated: whether the feed-forward network has a third matrix, the gate.
        fused: whether q, k and v are one matrix in a GGUF.
        positions: rows of the learned position embedding; 0 for none.
        key_size: dimensions of a key in one head; width / heads by default.
        value_size: dimensions of a value in one head; width / heads by default.
        active_ffn: rows of the feed-forward network that are computed for a token: in a model with experts, those of
            all active experts together; `ffn` by default.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool = False
    gated: bool = False
    fused: bool = False
    positions: int = 0
    key_size: int = 0
    value_size: int = 0
    active_ffn: int = 0

    def __post_init__(self) -> None:
        if not self.active_ffn:
            object.__setattr__(self, "active_ffn", self.ffn)
        for name in ("key_size", "value_size"):
            if not getattr(self, name) and self.heads:
                object.__setattr__(self, name, self.width // self.heads)

    def kv_bytes(self, n_tokens: int, cache_type: str = "F16") -> int:
        """Return the bytes of `n_tokens` in the KV cache; `cache_type` is a ggml type in any letter case."""
        weights, size = BLOCKS[cache_type.upper()]
        row = self.kv_heads * (self.key_size + self.value_size)
        return n_tokens * self.layers * row * size // weights

    def matrices(self) -> Iterator[Matrix]:
        """Yield every matrix of a GGUF, without norms and biases, which are thousandths of the size."""
        queries, keys = self.heads * self.key_size, self.kv_heads * self.key_size
        values = self.kv_heads * self.value_size
        yield Matrix("token_embd", self.vocab, self.width)
        if not self.tied:
            yield Matrix("output", self.vocab, self.width)
        if self.positions:
            yield Matrix("position_embd", self.positions, self.width)
        if self.fused:
            yield Matrix("attn_qkv", queries + keys + values, self.width, self.layers)
        else:
            yield Matrix("attn_q", queries, self.width, self.layers)
            yield Matrix("attn_k", keys, self.width, self.layers)
            yield Matrix("attn_v", values, self.width, self.layers)
        yield Matrix("attn_output", self.width, self.heads * self.value_size, self.layers)
        yield Matrix("ffn_up", self.ffn * (2 if self.gated else 1), self.width, self.layers)
        yield Matrix("ffn_down", self.width, self.ffn, self.layers)

    @property
    def weights(self) -> int:
        """Number of weights in all matrices.

        >>> Geometry(layers=2, width=8, heads=2, kv_heads=1, ffn=32, vocab=10, tied=True).weights
        1488
        """
        return sum(m.rows * m.columns * m.layers for m in self.matrices())


def read_geometry(
    values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], prefix: str = ""
) -> Geometry:
    """Return the geometry described by a GGUF's hyperparameters and tensor shapes.

    `prefix` precedes the keys in `values`, such as "llama.". Sizes that are missing or not integers are 0.
    """

    def size(name: str) -> int:
        found = values.get(prefix + name, 0)
        return found if isinstance(found, int) else 0

    heads = size("attention.head_count")
    names = ("blk.0.attn_qkv.weight", "output.weight")
    fused, has_head = (name in shapes for name in names)
    # The first layers of some models with experts have none.
    gated = any(".ffn_gate.weight" in name or ".ffn_gate_exps.weight" in name for name in shapes)
    expert_ffn = size("expert_feed_forward_length") or size("feed_forward_length")
    experts = size("expert_used_count") * expert_ffn + size("expert_shared_feed_forward_length")
    return Geometry(
        layers=size("block_count"),
        width=size("embedding_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv") or heads,
        ffn=size("feed_forward_length"),
        vocab=shapes.get("token_embd.weight", (0, 0))[-1],
        tied=not has_head,
        gated=gated,
        fused=fused,
        positions=shapes.get("position_embd.weight", (0, 0))[-1],
        key_size=size("attention.key_length"),
        value_size=size("attention.value_length"),
        active_ffn=max(size("feed_forward_length"), experts),
    )


def header_geometry(header: GgufHeader) -> Geometry:
    """Return the geometry of a model file."""
    shapes = {t.name: t.shape for t in header.tensors}
    return read_geometry(header.metadata, shapes, f"{header.architecture}.")


@cache
def weights_bytes(geometry: Geometry, parameters: int, type_name: str) -> int:
    """Predict the size in bytes of a GGUF's tensors, each in the type that llama.cpp's quantizer chooses for it.

    `parameters` is the exact number of weights; weights outside of matrices are F32. `type_name` is one of `TYPES`.
    """
    matrices = {
        f"{f'blk.{i}.' if m.layers > 1 else ''}{m.role}.weight": (m.columns, m.rows)
        for m in geometry.matrices()
        for i in range(m.layers)
    }
    metadata = {"general.architecture": "llama", "llama.block_count": geometry.layers}
    mixture = Mixture(type_name, TYPES[type_name], metadata, matrices)
    total = 4 * max(0, parameters - geometry.weights)
    for name, shape in matrices.items():
        found = mixture.type_of(name, shape) if is_quantized(name, shape, "llama") else "F16"
        total += n_bytes(fallback(found, shape[0]), prod(shape))
    return total
