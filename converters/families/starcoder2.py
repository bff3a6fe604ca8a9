"""Starcoder2 → llama.cpp's `starcoder2` graph.

Source: transformers `modeling_starcoder2.py`; llama.cpp `src/models/starcoder2.cpp`. Both rotate half-split
pairs and compute tanh GELU. The graph knows no sliding window: within the window there is no difference,
so the context that is written ends where the window does.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require, TokenizerSpec, copy


def dims(c: HfConfig) -> Dims:
    """The usual names; the context is at most the sliding window."""
    d = modern_dims(c)
    return replace(d, n_ctx=min(d.n_ctx, c.integer("sliding_window", absent=d.n_ctx)))


_LAYER = "model.layers.{i}."

SPEC = ArchSpec(
    architecture="Starcoder2ForCausalLM",
    gguf="starcoder2",
    dims=dims,
    keys=(*GEOMETRY, layer_norm("norm_epsilon"), *ROPE),
    require=(
        Require("hidden_act", ("gelu_pytorch_tanh", "gelu_new"), absent="gelu_pytorch_tanh"),
        Require("use_bias", (True,), absent=True),
        Require("norm_type", ("layer_norm",), absent="layer_norm"),
        Require("mlp_type", ("default",), absent="default"),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "input_layernorm.bias", "D"),
        copy("blk.{i}.attn_q.weight", _LAYER + "self_attn.q_proj.weight", "H*d", "D"),
        copy("blk.{i}.attn_q.bias", _LAYER + "self_attn.q_proj.bias", "H*d"),
        copy("blk.{i}.attn_k.weight", _LAYER + "self_attn.k_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_k.bias", _LAYER + "self_attn.k_proj.bias", "K*d"),
        copy("blk.{i}.attn_v.weight", _LAYER + "self_attn.v_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_v.bias", _LAYER + "self_attn.v_proj.bias", "K*d"),
        copy("blk.{i}.attn_output.weight", _LAYER + "self_attn.o_proj.weight", "D", "H*d"),
        copy("blk.{i}.attn_output.bias", _LAYER + "self_attn.o_proj.bias", "D"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        copy("blk.{i}.ffn_norm.bias", _LAYER + "post_attention_layernorm.bias", "D"),
        copy("blk.{i}.ffn_up.weight", _LAYER + "mlp.c_fc.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.c_fc.bias", "F"),
        copy("blk.{i}.ffn_down.weight", _LAYER + "mlp.c_proj.weight", "D", "F"),
        copy("blk.{i}.ffn_down.bias", _LAYER + "mlp.c_proj.bias", "D"),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output_norm.bias", "model.norm.bias", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    tokenizer=TokenizerSpec(pre="starcoder"),
    prefix="model.",
    ties_by_default=True,
)
