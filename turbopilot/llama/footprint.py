"""Does it fit? The memory of a served model: weights, KV cache, compute buffers, and what is spent if there is room.

With memory to spare more is resident: llama.cpp maps the file, and what it repacked for the CPU stays mapped until
the kernel wants the pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from turbopilot.base.machine import total_bytes
from turbopilot.llama.geometry import Geometry, header_geometry, weights_bytes

if TYPE_CHECKING:
    from turbopilot.formats.gguf.file import GgufHeader

UBATCH: Final = 512
"""Tokens that are computed at once at most: llama.cpp's own n_ubatch, as larger ones only cost memory."""
DEFAULT_CONTEXT: Final = 8192
"""Tokens of context at most, unless more are asked for: a longer KV cache costs memory."""
DEFAULT_PARALLEL: Final = 4
"""Sequences that run at once by default: one editor has a request or two under way."""
MEMORY_SHARE: Final = 0.75
"""Of the machine's memory, what models may take by default: the rest is left to editors and the system."""
# Python, the server, llama.cpp's library and a vocabulary, measured with `scripts/bench_headline.py`.
PROCESS: Final = 110_000_000
# Vectors of the model's width, and of the feed-forward's, that are alive at once for each token of a batch:
# fitted to the compute buffers that llama.cpp reports; a test compares them.
_WIDE: Final = 6
# 1/20 of this machine's memory is what split sequences may take beyond one pool.
SPLIT_SHARE: Final = 20
# 1/16 of what the model leaves is what cached prefixes may take by default, within these limits.
PREFIX_SHARE: Final = 16
LEAST_PREFIX_BYTES: Final = 32 * 2**20  # less holds too little to be of use
MOST_PREFIX_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How sequences lie in the KV cache.

    Attributes:
        n_seq: how many.
        is_split: each has `n_ctx` cells of its own, and computes over these alone, at `n_seq` times the memory. Else
            they share one pool, and every token is compared with everybody's: 128 tokens of a prompt beside 7 other
            sequences of 350 took SmolLM2-135M 1.0 to 1.1 s so, and 0.6 to 0.7 s split (2 cores, no GPU).
    """

    n_seq: int = 1
    is_split: bool = False

    def n_cells(self, n_ctx: int) -> int:
        """Return the cells to ask llama.cpp for; it rounds each sequence's up to a multiple of 256."""
        return self.n_seq * -(-n_ctx // 256) * 256 if self.is_split else n_ctx


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of memory of a served model.

    Attributes:
        weights: the file's tensors.
        kv_cache: keys and values of the context.
        compute: activations of a batch and its attention mask.
    """

    weights: int
    kv_cache: int
    compute: int

    @property
    def model(self) -> int:
        """What one more model takes in a process that runs already."""
        return self.weights + self.kv_cache + self.compute

    @property
    def total(self) -> int:
        """What the whole process takes, with this model alone."""
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
    """Predict the memory of a served model.

    Args:
        geometry: see `header_geometry`.
        weights: bytes of the tensors: a file's, or `weights_bytes` of a type.
        n_ctx: tokens of context of a sequence.
        layout: of the sequences; by default the least memory: all in one pool.
        cache_type: ggml type of keys and values, in any letter case.
        n_batch: prompt tokens computed at once.
    """
    ffn = 2 * geometry.ffn if geometry.gated else geometry.ffn
    compute = min(n_batch, UBATCH) * (4 * (ffn + _WIDE * geometry.width) + 2 * n_ctx)
    return Footprint(weights, geometry.kv_bytes(layout.n_cells(n_ctx), cache_type), compute)


def kv_bytes_per_token(header: GgufHeader, cache_type: str) -> int:
    """Return the bytes of the KV cache that a token takes; 0 if the header does not say it."""
    return header_geometry(header).kv_bytes(1, cache_type)


def default_context(trained: int) -> int:
    """Return the tokens of context to serve with by default, of those that the model was trained with."""
    return min(trained, DEFAULT_CONTEXT)


def memory_budget() -> int:
    """Return the bytes that models may take by default."""
    return int(total_bytes() * MEMORY_SHARE)


def best_type(geometry: Geometry, parameters: int, n_ctx: int, budget: int) -> str:
    """Return the type of fewest losses in which a model fits into so many bytes; "" if it fits in none.

    Leaves out F16: Q8_0 loses next to nothing, and is twice as fast where memory is the limit.
    """
    for name in ("Q8_0", "Q4_K_M", "Q4_0"):
        weights = weights_bytes(geometry, parameters, name)
        if footprint(geometry, weights, n_ctx).total <= budget:
            return name
    return ""


def choose_layout(geometry: Geometry, n_ctx: int, wanted: int | None, cache_type: str) -> KvLayout:
    """Split as many sequences as are wanted, if that costs a small share of this machine's memory."""
    n_seq = wanted or DEFAULT_PARALLEL
    extra = geometry.kv_bytes((n_seq - 1) * n_ctx, cache_type)
    return KvLayout(n_seq, n_seq > 1 and 0 < extra <= total_bytes() // SPLIT_SHARE)


def choose_prefix_cache(n_bytes: int) -> int:
    """Return the bytes for cached prefixes beside a model of so many bytes, by default."""
    share = (total_bytes() - n_bytes) // PREFIX_SHARE
    return min(MOST_PREFIX_BYTES, share) if share >= LEAST_PREFIX_BYTES else 0
