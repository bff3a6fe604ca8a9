"""Plausible ranges of the numbers in config.json, checked when a value is read, before any other work.

Each range contains every published model with room to spare. Values inside it fit GGUF's types (uint32 and float32),
and a plan of them takes seconds and little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Range:
    """Smallest and largest plausible value, and the reason for the largest."""

    least: float
    most: float
    reason: str

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least:,} to {self.most:,} ({self.reason})"


_LAYERS = Range(1, 512, "llama.cpp's LLAMA_MAX_LAYERS")
_WIDTH = Range(1, 1 << 16, "the widest published model has 18,432")
_HEADS = Range(1, 1024, "published models have up to 128")
_HEAD_SIZE = Range(1, 1024, "published models have up to 256")
_INNER = Range(1, 1 << 20, "published models have up to 73,728")
_VOCABULARY = Range(1, 1 << 20, "published models have up to 262,144")
_CONTEXT = Range(1, 1 << 24, "published models have up to 10,485,760")
# PyTorch's norms accept 0, but then a constant row divides by zero.
_EPSILON = Range(1e-12, 1e-2, "published models have 1e-12 to 1e-3")
_THETA = Range(1, 1e12, "published models have 10,000 to 4.5e10")
_FRACTION = Range(0.001, 1, "a share of the head size")
_EXPERTS = Range(1, 1024, "llama.cpp's LLAMA_MAX_EXPERTS")
_RANK = Range(1, 1 << 14, "published models have up to 1,536")
_SCALE = Range(1e-3, 100, "published models have 0.7 to 16")
# llama.cpp ignores a multiplier of 0.
_MULTIPLIER = Range(1e-4, 1e4, "published models have 0.0078 to 16")

RANGES: Final[dict[str, Range]] = {
    "n_layer": _LAYERS,
    "num_hidden_layers": _LAYERS,
    "n_embd": _WIDTH,
    "hidden_size": _WIDTH,
    "n_head": _HEADS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _HEADS,
    "head_dim": _HEAD_SIZE,
    "rotary_dim": Range(2, 1024, "at most the head size"),
    "n_inner": _INNER,
    "intermediate_size": _INNER,
    "vocab_size": _VOCABULARY,
    "n_positions": _CONTEXT,
    "max_position_embeddings": _CONTEXT,
    "sliding_window": _CONTEXT,
    "layer_norm_epsilon": _EPSILON,
    "layer_norm_eps": _EPSILON,
    "norm_epsilon": _EPSILON,
    "rms_norm_eps": _EPSILON,
    "rope_theta": _THETA,
    "rotary_emb_base": _THETA,
    "partial_rotary_factor": _FRACTION,
    "rotary_pct": _FRACTION,
    "num_experts": _EXPERTS,
    "num_local_experts": _EXPERTS,
    "n_routed_experts": _EXPERTS,
    "num_experts_per_tok": _EXPERTS,
    "n_shared_experts": Range(1, 64, "published models have 1 or 2"),
    "moe_intermediate_size": _INNER,
    "first_k_dense_replace": Range(0, 512, "llama.cpp's LLAMA_MAX_LAYERS"),
    "kv_lora_rank": _RANK,
    "q_lora_rank": _RANK,
    "qk_nope_head_dim": _HEAD_SIZE,
    "qk_rope_head_dim": _HEAD_SIZE,
    "v_head_dim": _HEAD_SIZE,
    "routed_scaling_factor": _SCALE,
    "original_max_position_embeddings": _CONTEXT,
    "mscale": _SCALE,
    "mscale_all_dim": _SCALE,
    "embedding_multiplier": _MULTIPLIER,
    "residual_multiplier": _MULTIPLIER,
    "attention_multiplier": _MULTIPLIER,
    "logits_scaling": _MULTIPLIER,
    "factor": Range(1, 1024, "published models scale positions by up to 128"),
    "r": Range(1, 4096, "published adapters have a rank of up to 512"),
    "lora_alpha": Range(1e-6, 1 << 20, "published adapters have up to 2,048"),
}
"""Field of config.json, of its rope settings, or of adapter_config.json, to its range."""
