"""Sizes of a model's network, and the bytes of its weights and KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """A weight matrix: its role (name in a GGUF), its shape, the layers that have it, and the experts of each."""

    role: str
    rows: int
    columns: int
    layers: range | None = None  # None for one outside the layers
    stack: int = 1

    @property
    def weights(self) -> int:
        """Number of weights in all layers."""
        n_layers = 1 if self.layers is None else len(self.layers)
        return self.rows * self.columns * self.stack * n_layers

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape (innermost first) of each tensor."""
        shape = (self.columns, self.rows, *([self.stack] if self.stack > 1 else []))
        prefixes = [""] if self.layers is None else [f"blk.{i}." for i in self.layers]
        for prefix in prefixes:
            yield f"{prefix}{self.role}.weight", shape


@dataclass(frozen=True, slots=True)
class Experts:
    """Sizes of a mixture of experts.

    Attributes:
        count: experts of each layer.
        used: experts that compute each token.
        ffn: feed-forward size of one expert.
        shared: feed-forward size of the experts that compute every token.
        dense: leading layers without experts.
    """

    count: int
    used: int
    ffn: int
    shared: int = 0
    dense: int = 0


@dataclass(frozen=True, slots=True)
class Latent:
    """Sizes of multi-head latent attention, whose KV cache keeps one compressed vector for all heads.

    Attributes:
        rank: dimensions of the compressed keys and values.
        key_size: dimensions of a key of one head.
        value_size: dimensions of a value of one head.
        query_rank: dimensions of the compressed queries; 0 if they are not compressed.
    """

    rank: int
    key_size: int
    value_size: int
    query_rank: int = 0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that determine the memory of a model's weights and KV cache.

    Attributes:
        vocab: rows of the token embedding.
        tied: whether the token embedding is also the output head.
        gated: whether the feed-forward network has a third matrix, the gate.
        fused: whether q, k and v are one matrix in a GGUF.
        positions: rows of the learned position embedding; 0 for none.
        key_size: dimensions of a key in the KV cache; width / heads by default.
        value_size: dimensions of a value in the KV cache; width / heads by default.
        experts: sizes of the experts; None for a model without.
        latent: sizes of a latent attention; None for a usual one.
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
    experts: Experts | None = None
    latent: Latent | None = None

    def __post_init__(self) -> None:
        for name in ("key_size", "value_size"):
            if not getattr(self, name) and self.heads:
                object.__setattr__(self, name, self.width // self.heads)

    def kv_bytes(self, n_tokens: int, cache_type: str = "F16") -> int:
        """Return the bytes of `n_tokens` in the KV cache; `cache_type` is a ggml type in any letter case."""
        weights, size = BLOCKS[cache_type.upper()]
        # a latent attention's values are a part of its keys
        value_size = 0 if self.latent else self.value_size
        row = self.kv_heads * (self.key_size + value_size)
        return n_tokens * self.layers * row * size // weights

    @property
    def active_ffn(self) -> int:
        """Largest number of feed-forward dimensions that a layer computes for one token."""
        if not self.experts:
            return self.ffn
        dense = self.ffn if self.experts.dense else 0
        return max(dense, self.experts.used * self.experts.ffn + self.experts.shared)

    def matrices(self) -> Iterator[Matrix]:
        """Yield every matrix of a GGUF, without norms, biases and routers, which are thousandths of the size."""
        yield Matrix("token_embd", self.vocab, self.width)
        if not self.tied:
            yield Matrix("output", self.vocab, self.width)
        if self.positions:
            yield Matrix("position_embd", self.positions, self.width)
        layers = range(self.layers)
        yield from self._latent(layers, self.latent) if self.latent else self._attention(layers)
        gates = 2 if self.gated else 1
        dense = layers[: self.experts.dense] if self.experts else layers
        yield Matrix("ffn_up", self.ffn * gates, self.width, dense)
        yield Matrix("ffn_down", self.width, self.ffn, dense)
        if e := self.experts:
            sparse = layers[e.dense :]
            yield Matrix("ffn_up_exps", e.ffn * gates, self.width, sparse, e.count)
            yield Matrix("ffn_down_exps", self.width, e.ffn, sparse, e.count)
            if e.shared:
                yield Matrix("ffn_up_shexp", e.shared * gates, self.width, sparse)
                yield Matrix("ffn_down_shexp", self.width, e.shared, sparse)

    def _attention(self, layers: range) -> Iterator[Matrix]:
        queries, keys = self.heads * self.key_size, self.kv_heads * self.key_size
        values = self.kv_heads * self.value_size
        if self.fused:
            yield Matrix("attn_qkv", queries + keys + values, self.width, layers)
        else:
            yield Matrix("attn_q", queries, self.width, layers)
            yield Matrix("attn_k", keys, self.width, layers)
            yield Matrix("attn_v", values, self.width, layers)
        yield Matrix("attn_output", self.width, self.heads * self.value_size, layers)

    def _latent(self, layers: range, sizes: Latent) -> Iterator[Matrix]:
        queries = self.heads * sizes.key_size
        if sizes.query_rank:
            yield Matrix("attn_q_a", sizes.query_rank, self.width, layers)
            yield Matrix("attn_q_b", queries, sizes.query_rank, layers)
        else:
            yield Matrix("attn_q", queries, self.width, layers)
        yield Matrix("attn_kv_a_mqa", self.key_size, self.width, layers)
        unrotated = sizes.key_size - (self.key_size - sizes.rank)
        yield Matrix("attn_k_b", sizes.rank, unrotated, layers, self.heads)
        yield Matrix("attn_v_b", sizes.value_size, sizes.rank, layers, self.heads)
        yield Matrix("attn_output", self.width, self.heads * sizes.value_size, layers)

    @property
    def weights(self) -> int:
        """Number of weights in all matrices.

        >>> Geometry(layers=2, width=8, heads=2, kv_heads=1, ffn=32, vocab=10, tied=True).weights
        1488
        """
        return sum(m.weights for m in self.matrices())


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
    has_head = "output.weight" in shapes
    gates = ("blk.0.ffn_gate.weight", "blk.0.ffn_gate_exps.weight")
    return Geometry(
        layers=size("block_count"),
        width=size("embedding_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv") or heads,
        ffn=size("feed_forward_length"),
        vocab=shapes.get("token_embd.weight", (0, 0))[-1],
        tied=not has_head,
        gated=any(name in shapes for name in gates),
        fused="blk.0.attn_qkv.weight" in shapes,
        positions=shapes.get("position_embd.weight", (0, 0))[-1],
        key_size=size("attention.key_length"),
        value_size=size("attention.value_length"),
        experts=_read_experts(size),
        latent=_read_latent(size),
    )


def _read_experts(size: Callable[[str], int]) -> Experts | None:
    if not (count := size("expert_count")):
        return None
    ffn = size("expert_feed_forward_length") or size("feed_forward_length")
    shared = size("expert_shared_count") * ffn
    return Experts(count, size("expert_used_count"), ffn, shared, size("leading_dense_block_count"))


def _read_latent(size: Callable[[str], int]) -> Latent | None:
    key_size = size("attention.key_length_mla")
    if not key_size:
        return None
    value_size, rank = size("attention.value_length_mla"), size("attention.kv_lora_rank")
    return Latent(rank, key_size, value_size, size("attention.q_lora_rank"))


def header_geometry(header: GgufHeader) -> Geometry:
    """Return the geometry of a model file."""
    shapes = {t.name: t.shape for t in header.tensors}
    return read_geometry(header.metadata, shapes, f"{header.architecture}.")


@cache
def weights_bytes(geometry: Geometry, parameters: int, type_name: str) -> int:
    """Predict the size in bytes of a GGUF's tensors, each in the type that llama.cpp's quantizer chooses for it.

    `parameters` is the exact number of weights; weights outside of matrices are F32. `type_name` is one of `TYPES`.
    """
    return 4 * max(0, parameters - geometry.weights) + sum(
        matrix_bytes(geometry, type_name).values()
    )


@cache
def matrix_bytes(geometry: Geometry, type_name: str) -> Mapping[str, int]:
    """Predict the size in bytes of each matrix of a GGUF, by tensor name; `type_name` is one of `TYPES`."""
    matrices = dict(pair for m in geometry.matrices() for pair in m.shapes())
    metadata = {"general.architecture": "llama", "llama.block_count": geometry.layers}
    if geometry.experts:
        metadata["llama.expert_count"] = geometry.experts.count
    mixture = Mixture(type_name, TYPES[type_name], metadata, matrices)
    sizes = {}
    for name, shape in matrices.items():
        found = mixture.type_of(name, shape) if is_quantized(name, shape, "llama") else "F16"
        sizes[name] = n_bytes(fallback(found, shape[0]), prod(shape))
    return sizes
