"""Predicted memory of a served model, and defaults that depend on the machine's memory.

More memory may be resident if enough is free: the pages of the mapped file stay, even for weights that were repacked
for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turbopilot.base.machine import free_bytes, total_bytes
from turbopilot.llama.geometry import Geometry

UBATCH: Final = 512
"""Maximum number of tokens computed at once: llama.cpp's default n_ubatch. Larger values only cost memory."""
DEFAULT_CONTEXT: Final = 8192
"""Maximum default context in tokens, because a longer KV cache costs memory."""
DEFAULT_PARALLEL: Final = 4
"""Default number of concurrent sequences; an editor has one or two concurrent requests."""
MEMORY_SHARE: Final = 0.75
"""Share of the machine's memory that models may take by default."""
# Python, the server, llama.cpp's library and a vocabulary, measured with `scripts/bench_headline.py`.
PROCESS: Final = 110_000_000
# Split sequences may take 1/4 of the memory that is free after the weights.
SPLIT_SHARE: Final = 4
# A default context is halved down to this size, in tokens, before sequences share a pool: editors send fewer.
LEAST_SPLIT_CONTEXT: Final = 2048
# By default, cached prefixes may take 1/4 of the memory that the model leaves free, as far as they are needed.
PREFIX_SHARE: Final = 4
LEAST_PREFIX_BYTES: Final = 32 * 2**20  # a smaller cache is too small to be useful


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Layout of sequences in the KV cache.

    In a split layout, each sequence has `n_ctx` cells and attends only to these, at `n_seq` times the memory. Otherwise
    all sequences share one pool, and every token attends over all cells, which is slower: with SmolLM2-135M, prefill of
    128 tokens next to 7 sequences of 350 tokens took 1.0 to 1.1 s, and 0.6 to 0.7 s split (2 cores, no GPU).
    """

    n_seq: int = 1
    is_split: bool = False

    def n_cells(self, n_ctx: int) -> int:
        """Return the cells to request from llama.cpp, which rounds each sequence up to a multiple of 256."""
        return self.n_seq * -(-n_ctx // 256) * 256 if self.is_split else n_ctx


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a served model in bytes: tensors, KV cache, and activations and attention mask of a batch."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def model(self) -> int:
        """Bytes that the model adds to a running process."""
        return self.weights + self.kv_cache + self.compute

    @property
    def total(self) -> int:
        """Bytes of a process that serves only this model."""
        return self.model + PROCESS


def footprint(
    geometry: Geometry,
    weights: int,
    n_ctx: int,
    layout: KvLayout = KvLayout(),
    *,
    cache_type: str = "F16",
    n_batch: int = UBATCH,
) -> Footprint:
    """Predict the memory of a served model from the bytes of its weights and the context of each sequence."""
    batch = min(n_batch, UBATCH)
    compute = batch * 4 * (activations(geometry) + geometry.width) + mask_bytes(n_ctx, batch)
    return Footprint(weights, geometry.kv_bytes(layout.n_cells(n_ctx), cache_type), compute)


def activations(geometry: Geometry) -> int:
    """Return the numbers that are in memory at once for a token in a layer, with flash attention.

    Fitted to llama.cpp's compute buffers, which tests compare: for gated networks, it is exact if the network is
    wider than attention. A float32 each.
    """
    ffn, width = geometry.active_ffn, geometry.width
    return max(3 * ffn + 3 * width, 2 * ffn + 5 * width) if geometry.gated else ffn + 5 * width


def mask_bytes(n_ctx: int, n_batch: int) -> int:
    """Return the bytes of the attention mask of a batch: a float16 for each token and earlier token."""
    return 2 * n_ctx * n_batch


def default_context(trained: int) -> int:
    """Return the default context of a model that was trained with a context of `trained` tokens."""
    return min(trained, DEFAULT_CONTEXT)


def memory_budget() -> int:
    """Return the bytes that models may take by default."""
    return int(total_bytes() * MEMORY_SHARE)


def choose_layout(
    geometry: Geometry,
    weights: int,
    contexts: Sequence[int],
    wanted: int | None,
    cache_type: str,
    free: int | None = None,
) -> tuple[int, KvLayout]:
    """Return the context of each sequence, and a split layout if memory allows, otherwise a shared pool.

    Args:
        geometry: the model's sizes.
        weights: bytes of the model's tensors.
        contexts: acceptable contexts in tokens, the best first; the first is also that of a pool.
        wanted: number of sequences; None is the default.
        cache_type: KV cache type.
        free: bytes that are free for the model; None means the free main memory.
    """
    n_seq = wanted or DEFAULT_PARALLEL
    if n_seq > 1 and geometry.kv_bytes(1, cache_type):
        room = ((free_bytes() if free is None else free) - weights) // SPLIT_SHARE
        for n_ctx in contexts:
            if geometry.kv_bytes(n_seq * n_ctx, cache_type) <= room:
                return n_ctx, KvLayout(n_seq, is_split=True)
    return contexts[0], KvLayout(n_seq)


def choose_prefix_cache(n_bytes: int) -> int:
    """Return the default limit of the prefix cache in bytes.

    Args:
        n_bytes: bytes that the model and its KV cache will take, and have not taken yet.
    """
    share = (free_bytes() - n_bytes) // PREFIX_SHARE
    return share if share >= LEAST_PREFIX_BYTES else 0
