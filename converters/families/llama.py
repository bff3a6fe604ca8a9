"""Llama (CodeLlama, DeepSeek-Coder, Seed-Coder, Mellum-4b, Granite-code, SmolLM2) → llama.cpp's `llama` graph.

Source: transformers `modeling_llama.py`; llama.cpp `src/models/llama.cpp`. The graph rotates neighbouring
pairs and transformers half-split pairs, so the rows of q and k are interleaved. The config states which biases
exist. Of the scaled rope types, only "linear" (DeepSeek-Coder) is supported.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, HEAD_SIZE, ROPE, is_set, modern_dims, rms_norm
from converters.spec import ArchSpec, Key, Require, affine, copy
from converters.transforms import llama_k, llama_q

_LAYER = "model.layers.{i}."
_ATTN_BIAS, _MLP_BIAS = is_set("attention_bias"), is_set("mlp_bias")
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="LlamaForCausalLM",
    gguf="llama",
    dims=modern_dims,
    keys=(
        *GEOMETRY,
        rms_norm(1e-6),
        *ROPE,
        *HEAD_SIZE,
        Key("vocab_size", lambda c, d: d.n_vocab),
    ),
    require=(Require("hidden_act", ("silu", "swish"), absent="silu"),),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        *affine("blk.{i}.attn_q", _ATTN + "q_proj", "H*d", "D", rows=llama_q, bias=_ATTN_BIAS),
        *affine("blk.{i}.attn_k", _ATTN + "k_proj", "K*d", "D", rows=llama_k, bias=_ATTN_BIAS),
        *affine("blk.{i}.attn_v", _ATTN + "v_proj", "K*d", "D", bias=_ATTN_BIAS),
        *affine("blk.{i}.attn_output", _ATTN + "o_proj", "D", "H*d", bias=_ATTN_BIAS),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        *affine("blk.{i}.ffn_gate", _MLP + "gate_proj", "F", "D", bias=_MLP_BIAS),
        *affine("blk.{i}.ffn_up", _MLP + "up_proj", "F", "D", bias=_MLP_BIAS),
        *affine("blk.{i}.ffn_down", _MLP + "down_proj", "D", "F", bias=_MLP_BIAS),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="llama-bpe",
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
