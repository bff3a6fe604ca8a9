"""Predicted memory of a served model, and defaults that depend on the machine's memory.

With memory to spare more is resident: the mapped file's pages stay even for weights that were repacked for the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from turbopilot.base.machine import total_bytes
from turbopilot.llama.geometry import Geometry, weights_bytes

UBATCH: Final = 512
"""Most tokens computed at once: llama.cpp's default n_ubatch; larger ones only cost memory."""
DEFAULT_CONTEXT: Final = 8192
"""Most tokens of context by default, as a longer KV cache costs memory."""
DEFAULT_PARALLEL: Final = 4
"""Sequences that run at once by default: an editor has one or two concurrent requests."""
MEMORY_SHARE: Final = 0.75
"""Share of the machine's memory that models may take by default."""
# Python, the server, llama.cpp's library and a vocabulary, measured with `scripts/bench_headline.py`.
PROCESS: Final = 110_000_000
# Vectors of the model's width alive at once per token of a batch: fitted to llama.cpp's compute buffers; a test
# compares them.
_WIDE: Final = 6
# 1/20 of this machine's memory is what split sequences may take beyond one pool.
SPLIT_SHARE: Final = 20
# 1/16 of what the model leaves is what cached prefixes may take by default, within these limits.
PREFIX_SHARE: Final = 16
LEAST_PREFIX_BYTES: Final = 32 * 2**20  # less holds too little to be of use
MOST_PREFIX_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Layout of sequences in the KV cache.

    If it is split, each sequence has `n_ctx` cells and computes over these alone, at `n_seq` times the memory. Else all
    share one pool, and every token attends over all cells: 128 tokens of a prompt beside 7 sequences of 350 took
    SmolLM2-135M 1.0 to 1.1 s, and 0.6 to 0.7 s split (2 cores, no GPU).
    """

    n_seq: int = 1
    is_split: bool = False

    def n_cells(self, n_ctx: int) -> int:
        """Return the cells to ask llama.cpp for, which rounds each sequence up to a multiple of 256."""
        return self.n_seq * -(-n_ctx // 256) * 256 if self.is_split else n_ctx


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a served model: tensors, KV cache, and activations and attention mask of a batch."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def model(self) -> int:
        """Return what another model takes in a running process."""
        return self.weights + self.kv_cache + self.compute

    @property
    def total(self) -> int:
        """Return what the whole process takes with this model alone."""
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
    """Predict the memory of a served model, given the bytes of its weights and the context of a sequence."""
    ffn = 2 * geometry.ffn if geometry.gated else geometry.ffn
    compute = min(n_batch, UBATCH) * (4 * (ffn + _WIDE * geometry.width) + 2 * n_ctx)
    return Footprint(weights, geometry.kv_bytes(layout.n_cells(n_ctx), cache_type), compute)


def default_context(trained: int) -> int:
    """Return the default context of a model trained on so many tokens."""
    return min(trained, DEFAULT_CONTEXT)


def memory_budget() -> int:
    """Return the bytes that models may take by default."""
    return int(total_bytes() * MEMORY_SHARE)


def best_type(geometry: Geometry, parameters: int, n_ctx: int, budget: int) -> str:
    """Return the best type in which a model fits into so many bytes; "" if it fits in none.

    Leaves out F16: Q8_0 loses almost nothing, and is twice as fast when memory is the limit.
    """
    for name in ("Q8_0", "Q4_K_M", "Q4_0"):
        weights = weights_bytes(geometry, parameters, name)
        if footprint(geometry, weights, n_ctx).total <= budget:
            return name
    return ""


def choose_layout(geometry: Geometry, n_ctx: int, wanted: int | None, cache_type: str) -> KvLayout:
    """Split the sequences if that costs a small share of this machine's memory."""
    n_seq = wanted or DEFAULT_PARALLEL
    extra = geometry.kv_bytes((n_seq - 1) * n_ctx, cache_type)
    return KvLayout(n_seq, n_seq > 1 and 0 < extra <= total_bytes() // SPLIT_SHARE)


def choose_prefix_cache(n_bytes: int) -> int:
    """Return the default bytes for cached prefixes beside a model of so many bytes."""
    share = (total_bytes() - n_bytes) // PREFIX_SHARE
    return min(MOST_PREFIX_BYTES, share) if share >= LEAST_PREFIX_BYTES else 0
