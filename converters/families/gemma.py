"""Gemma (CodeGemma) → llama.cpp's `gemma` graph.

Source: transformers `modeling_gemma.py`; llama.cpp `src/models/gemma.cpp`. Gemma's norms multiply by 1 + weight, the
graph's by the weight, so 1 is added to it. Both multiply the embedding by the root of the hidden size, rotate
half-split pairs, compute tanh GELU and use the embedding as the output head. `hidden_act: gelu` in the published files
means tanh GELU; if `hidden_activation` is given, it takes precedence.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, modern_dims, rms_norm
from converters.spec import ArchSpec, Key, Require, SourceRows, TensorSpec, copy

_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."
_TANH = "gelu_pytorch_tanh"


def norm(name: str, source: str) -> TensorSpec:
    """Return a norm's weight plus 1."""
    return TensorSpec(name, (SourceRows(source, ("D",), offset=1.0),))


SPEC = ArchSpec(
    architecture="GemmaForCausalLM",
    gguf="gemma",
    dims=modern_dims,
    keys=(
        *GEOMETRY,
        rms_norm(1e-6),
        *ROPE,
        Key("attention.key_length", lambda c, d: d.head_dim),
        Key("attention.value_length", lambda c, d: d.head_dim),
    ),
    require=(
        Require("hidden_act", ("gelu", _TANH), absent=_TANH),
        Require("hidden_activation", (_TANH,), absent=_TANH),
        Require("attention_bias", (False,), absent=False),
        Require("use_bidirectional_attention", (False,), absent=False),
        Require("tie_word_embeddings", (True,), absent=True),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        norm("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight"),
        copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D"),
        copy("blk.{i}.attn_k.weight", _ATTN + "k_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_v.weight", _ATTN + "v_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
        norm("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight"),
        copy("blk.{i}.ffn_gate.weight", _MLP + "gate_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_up.weight", _MLP + "up_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_down.weight", _MLP + "down_proj.weight", "D", "F"),
        norm("output_norm.weight", "model.norm.weight"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="default",
    prefix="model.",
    ties_by_default=True,
)
