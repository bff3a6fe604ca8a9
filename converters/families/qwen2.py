"""Qwen2 (Qwen2.5-Coder) → llama.cpp's `qwen2` graph.

Source: transformers `modeling_qwen2.py`; llama.cpp `src/models/qwen2.cpp`. Both rotate half-split pairs;
q, k and v have biases, the output has none.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, gated_mlp, modern_dims, rms_norm
from converters.spec import ArchSpec, Require, affine, copy

_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="Qwen2ForCausalLM",
    gguf="qwen2",
    dims=modern_dims,
    keys=(*GEOMETRY, rms_norm(1e-6), *ROPE),
    require=(
        Require("hidden_act", ("silu",), absent="silu"),
        Require("use_sliding_window", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        *affine("blk.{i}.attn_q", _ATTN + "q_proj", "H*d", "D"),
        *affine("blk.{i}.attn_k", _ATTN + "k_proj", "K*d", "D"),
        *affine("blk.{i}.attn_v", _ATTN + "v_proj", "K*d", "D"),
        copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        *gated_mlp("", _MLP, "F"),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="qwen2",
    prefix="model.",
)
