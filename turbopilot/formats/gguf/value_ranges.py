"""Plausible ranges of the hyperparameters in a model's metadata.

Source of the assertions: llama.cpp, src/llama-model.cpp (`load_hparams`), src/llama-hparams.h, ggml/src/ggml.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ValueRange(NamedTuple):
    """Range of a number, or of each number of a list: its kind, the least and the greatest value, and the reason."""

    kind: type[int] | type[float]
    least: float
    most: float
    reason: str


_LAYERS, _EXPERTS, _LARGEST = 512, 1024, 1 << 30
_ABORTS: Final = "llama.cpp ends the process beyond it"
_OVERFLOWS: Final = "products of two sizes must fit into 64 bits"

RANGES: Final = {
    "block_count": ValueRange(int, 1, _LAYERS, f"LLAMA_MAX_LAYERS: {_ABORTS}"),
    "context_length": ValueRange(int, 1, _LARGEST, _OVERFLOWS),
    "embedding_length": ValueRange(int, 1, 1 << 20, _OVERFLOWS),
    "feed_forward_length": ValueRange(int, 0, 1 << 24, _OVERFLOWS),
    "attention.head_count": ValueRange(int, 0, 1 << 16, _OVERFLOWS),
    "attention.head_count_kv": ValueRange(int, 0, 1 << 16, _OVERFLOWS),
    "attention.key_length": ValueRange(int, 1, 1 << 16, _OVERFLOWS),
    "attention.value_length": ValueRange(int, 1, 1 << 16, _OVERFLOWS),
    "expert_count": ValueRange(int, 0, _EXPERTS, f"LLAMA_MAX_EXPERTS: {_ABORTS}"),
    "expert_used_count": ValueRange(int, 0, _EXPERTS, f"at most expert_count: {_ABORTS}"),
    "attention.layer_norm_epsilon": ValueRange(float, 0, 1, f"published: 1e-12 to 1e-3; below 0, {_ABORTS}"),
    "attention.layer_norm_rms_epsilon": ValueRange(float, 0, 1, f"published: 1e-8 to 1e-3; below 0, {_ABORTS}"),
    "attention.group_norm_epsilon": ValueRange(float, 0, 1, f"published: 1e-6; below 0, {_ABORTS}"),
    "rope.freq_base": ValueRange(float, 0, 1e12, "published: 1e4 to 1e8; angles of larger ones are not numbers"),
}  # fmt: skip
"""Key after the architecture → range. A value of another kind is refused, except for an integer in place of a float."""

ANY_NUMBER: Final = ValueRange(float, -3.4e38, 3.4e38, "NaN and infinity spread to every logit")
ANY_INTEGER: Final = ValueRange(int, 0, _LARGEST, "llama.cpp reads negative numbers as huge ones")
"""Ranges of all other numbers."""
