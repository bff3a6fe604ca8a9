"""Starcoder2 → llama.cpp's `starcoder2` graph.

Source: transformers `modeling_starcoder2.py`; llama.cpp `src/models/starcoder2.cpp`. Both rotate half-split
pairs and compute tanh GELU. The graph has no sliding window, so the context is limited to the window's size,
within which the results are the same.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require, affine, copy


def dims(c: HfConfig) -> Dims:
    """Read the geometry from Llama's field names; limit the context to the sliding window."""
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
        *affine("blk.{i}.attn_norm", _LAYER + "input_layernorm", "D"),
        *affine("blk.{i}.attn_q", _LAYER + "self_attn.q_proj", "H*d", "D"),
        *affine("blk.{i}.attn_k", _LAYER + "self_attn.k_proj", "K*d", "D"),
        *affine("blk.{i}.attn_v", _LAYER + "self_attn.v_proj", "K*d", "D"),
        *affine("blk.{i}.attn_output", _LAYER + "self_attn.o_proj", "D", "H*d"),
        *affine("blk.{i}.ffn_norm", _LAYER + "post_attention_layernorm", "D"),
        *affine("blk.{i}.ffn_up", _LAYER + "mlp.c_fc", "F", "D"),
        *affine("blk.{i}.ffn_down", _LAYER + "mlp.c_proj", "D", "F"),
        *affine("output_norm", "model.norm", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="starcoder",
    prefix="model.",
    ties_by_default=True,
)
