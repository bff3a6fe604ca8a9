"""Hyperparameters that must be equal in a checkpoint's config and in a GGUF.

Logits hardly show errors in them: an epsilon that is wrong by a factor of ten changes logits less than F16 rounding
does, and a wrong RoPE base matters only far into a context.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any, Final

from turbopilot.verify.criteria import Failure

# GGUF key (without the architecture) → names in config.json.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "rope.freq_base": ("rope_theta", "rotary_emb_base"),
    "rope.dimension_count": ("rotary_dim", "qk_rope_head_dim"),
    "expert_count": ("n_routed_experts", "num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "attention.kv_lora_rank": ("kv_lora_rank",),
    "attention.q_lora_rank": ("q_lora_rank",),
    "rope.scaling.factor": ("factor",),
    "rope.scaling.original_context_length": ("original_max_position_embeddings",),
}
_EPSILONS: Final = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
# llama.cpp's default (llama-model.cpp), which is also built into the code of CodeGen and GPT-J
_ABSENT: Final = {"rope.freq_base": 10000.0}


def of_config(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the hyperparameters in a config.json, by GGUF key."""
    flat = dict(config)
    for nested in (config.get("rope_scaling"), config.get("rope_parameters")):
        flat = {**(nested if isinstance(nested, Mapping) else {}), **flat}
    if "kv_lora_rank" in config:  # latent attention: llama.cpp's cache has one head
        flat["num_key_value_heads"] = 1
    found: dict[str, float] = {}
    for key, names in _FIELDS.items():
        values = (flat.get(name) for name in names)
        if numbers := [v for v in values if isinstance(v, (int, float))]:
            found[key] = float(numbers[0])
    return found | {key: v for key, v in _ABSENT.items() if key not in found}


def of_gguf(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the hyperparameters in a GGUF's metadata, by key."""
    arch = metadata.get("general.architecture")
    found: dict[str, float] = {}
    for key in _FIELDS:
        for spelt in _EPSILONS if key == "epsilon" else (key,):
            value = metadata.get(f"{arch}.{spelt}", _ABSENT.get(key))
            if isinstance(value, (int, float)):
                found[key] = float(value)
    return found


def differences(reference: Mapping[str, float], candidate: Mapping[str, float]) -> list[Failure]:
    """Return a failure for each hyperparameter that both models have and that differs."""
    return [
        Failure(
            f"hyperparameter {key}",
            f"{key} is {candidate[key]:g} in the GGUF and {value:g} in the checkpoint",
        )
        for key, value in reference.items()
        # GGUF stores float32
        if key in candidate and not isclose(value, candidate[key], rel_tol=1e-6)
    ]
