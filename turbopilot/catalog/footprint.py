"""How much memory a model takes when served: its file, the KV cache, and what llama.cpp computes in. Pure.

The file is counted matrix by matrix, in the types that llama.cpp's quantizer gives each (`src/llama-quant.cpp`):
Q4_0 and Q4_K_M keep the output head in Q6_K, and Q4_K_M keeps half of the value and down matrices in Q6_K too.
The rest is what llama.cpp computes a batch in, and a fixed part. Where there is memory to spare, more is resident:
llama.cpp maps the file, and what it has laid out anew for the CPU stays mapped until the kernel wants the pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from turbopilot.catalog.model import Geometry, Matrix, Model
from turbopilot.formats.ggml_types import GGML_TYPES

TYPES: Final = ("F16", "Q8_0", "Q4_K_M", "Q4_0")
DEFAULT_CONTEXT: Final = 8192  # the most that `serve` takes unasked; a test compares them
BATCH: Final = 512  # prompt tokens computed at once, `serve --batch-size`
# Python, the server, llama.cpp's library and a vocabulary, measured with `scripts/bench_headline.py`.
FIXED: Final = 110_000_000
# Vectors of the model's width, and of the feed-forward's, that are alive at once for each token of a batch:
# fitted to the compute buffers that llama.cpp reports; a test compares them.
_WIDE: Final = 6
_BLOCKS: Final = {name: (weights, n_bytes) for name, weights, n_bytes in GGML_TYPES.values()}
# K types want rows of whole blocks of 256 weights; what llama.cpp takes instead (tensor_type_fallback).
_FALLBACK: Final = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
_RAISED: Final = ("attn_v", "attn_qkv", "ffn_down")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of memory while serving.

    Attributes:
        file: the GGUF's tensors.
        kv_cache: keys and values of the context.
        working: the activations of a batch, and the fixed part.
    """

    file: int
    kv_cache: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.file + self.kv_cache + self.working


def _layers_raised(n: int) -> int:
    """In how many of n layers Q4_K_M takes more bits: the first and the last eighth, and each third between.

    >>> _layers_raised(32)
    16
    """
    return sum(i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2 for i in range(n))


def _bytes(matrix: Matrix, kind: str, layers: int) -> int:
    weights, n_bytes = _BLOCKS[kind]
    if matrix.columns % weights:
        return _bytes(matrix, _FALLBACK[kind], layers)
    return matrix.rows * matrix.columns * layers // weights * n_bytes


def _matrix_bytes(matrix: Matrix, geometry: Geometry, kind: str) -> int:
    body = "Q4_K" if kind == "Q4_K_M" else kind
    if matrix.role == "position_embd":  # never quantized
        return _bytes(matrix, "F16", matrix.layers)
    head = "token_embd" if geometry.tied else "output"
    if matrix.role == head and kind.startswith("Q4"):
        return _bytes(matrix, "Q6_K", matrix.layers)
    raised = 0
    if kind == "Q4_K_M" and matrix.role in _RAISED:
        raised = _layers_raised(matrix.layers)
    return _bytes(matrix, "Q6_K", raised) + _bytes(matrix, body, matrix.layers - raised)


def file_bytes(model: Model, kind: str) -> int:
    """Size of the model's GGUF without its vocabulary, which is a few megabytes.

    Args:
        model: of the catalogue.
        kind: one of `TYPES`.
    """
    vectors = 4 * max(0, model.parameters - model.geometry.weights)  # norms and biases, F32
    return vectors + sum(_matrix_bytes(m, model.geometry, kind) for m in model.geometry.matrices())


def kv_bytes(model: Model, n_ctx: int, cache_type: str = "F16") -> int:
    """Size of a KV cache of so many tokens.

    Args:
        model: of the catalogue.
        n_ctx: tokens.
        cache_type: as in `serve --cache-type`, in any letter case.
    """
    g = model.geometry
    weights, n_bytes = _BLOCKS[cache_type.upper()]
    return 2 * n_ctx * g.layers * g.kv_heads * g.head_size // weights * n_bytes


def compute_bytes(model: Model, n_ctx: int) -> int:
    """What llama.cpp reserves for the activations of one batch and its attention mask, at most."""
    g = model.geometry
    ffn = 2 * g.ffn if g.gated else g.ffn
    return BATCH * (4 * (ffn + _WIDE * g.width) + 2 * n_ctx)


def footprint(
    model: Model, kind: str, n_ctx: int | None = None, *, cache_type: str = "F16"
) -> Footprint:
    """What serving takes.

    Args:
        model: of the catalogue.
        kind: one of `TYPES`.
        n_ctx: tokens of context; None is what `serve` takes by itself.
        cache_type: what keys and values are kept in, as in `serve --cache-type`.
    """
    tokens = min(model.context, DEFAULT_CONTEXT) if n_ctx is None else n_ctx
    return Footprint(
        file_bytes(model, kind),
        kv_bytes(model, tokens, cache_type),
        compute_bytes(model, tokens) + FIXED,
    )


def best_type(model: Model, budget: int) -> str:
    """The type of fewest losses with which the model fits into so many bytes; "" where none does.

    F16 is left out: Q8_0 loses next to nothing, and is twice as fast where memory is what limits.
    """
    return next((k for k in ("Q8_0", "Q4_K_M", "Q4_0") if footprint(model, k).total <= budget), "")
