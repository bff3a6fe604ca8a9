"""Qwen3 (dense) → llama.cpp's `qwen3` graph.

Source: transformers `modeling_qwen3.py`; llama.cpp `src/models/qwen3.cpp`. Both rotate half-split pairs of whole
heads, and normalize each head of q and k before. There are no biases, and the size of a head does not depend on the
number of heads.
"""

from __future__ import annotations

from converters.families.common import (
    GEOMETRY,
    HEAD_SIZE,
    ROPE,
    gated_mlp,
    modern_dims,
    rms_norm,
    rotates_all,
)
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require, copy

_LAYER = "model.layers.{i}."
_ATTN = _LAYER + "self_attn."


def dims(c: HfConfig) -> Dims:
    """Read the geometry from Llama's field names; by default a head has 128 dimensions."""
    return modern_dims(c.over(head_dim=c.integer("head_dim", absent=128)))


ATTENTION = (
    copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
    copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D"),
    copy("blk.{i}.attn_k.weight", _ATTN + "k_proj.weight", "K*d", "D"),
    copy("blk.{i}.attn_v.weight", _ATTN + "v_proj.weight", "K*d", "D"),
    copy("blk.{i}.attn_q_norm.weight", _ATTN + "q_norm.weight", "d"),
    copy("blk.{i}.attn_k_norm.weight", _ATTN + "k_norm.weight", "d"),
    copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
    copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
)
ENDS = (
    copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
    copy("output_norm.weight", "model.norm.weight", "D"),
    copy("output.weight", "lm_head.weight", "V", "D", tied=True),
)

SPEC = ArchSpec(
    architecture="Qwen3ForCausalLM",
    gguf="qwen3",
    dims=dims,
    keys=(*GEOMETRY, *HEAD_SIZE, rms_norm(1e-6), *ROPE),
    require=(
        Require("hidden_act", ("silu",), absent="silu"),
        Require("attention_bias", (False,), absent=False),
        Require("use_sliding_window", (False,), absent=False),
    ),
    tensors=(*ENDS, *ATTENTION, *gated_mlp("", _LAYER + "mlp.", "F")),
    pre="qwen2",
    prefix="model.",
    check=rotates_all,
)
