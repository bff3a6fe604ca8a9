"""Llama (CodeLlama, DeepSeek-Coder, Granite-code 3B and 8B, SmolLM2) → llama.cpp's `llama` graph.

Source: transformers `modeling_llama.py`; llama.cpp `src/models/llama.cpp`. The graph rotates neighbouring
pairs, transformers the halves of a head: q's and k's rows are interleaved. Biases exist where the config
says so. Of the ways to stretch positions only "linear" (DeepSeek-Coder) is written.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, modern_dims, rms_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Key, Require, TokenizerSpec, copy
from converters.transforms import llama_k, llama_q


def attention_bias(c: HfConfig) -> bool:
    """Whether q, k, v and the output have biases."""
    return c.flag("attention_bias", absent=False)


def mlp_bias(c: HfConfig) -> bool:
    """Whether the feed-forward matrices have biases."""
    return c.flag("mlp_bias", absent=False)


_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="LlamaForCausalLM",
    gguf="llama",
    dims=modern_dims,
    keys=(
        *GEOMETRY,
        rms_norm(1e-6),
        *ROPE,
        Key("attention.key_length", lambda c, d: d.head_dim),
        Key("attention.value_length", lambda c, d: d.head_dim),
        Key("vocab_size", lambda c, d: d.n_vocab),
    ),
    require=(Require("hidden_act", ("silu", "swish"), absent="silu"),),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D", rows=llama_q),
        copy(
            "blk.{i}.attn_q.bias", _ATTN + "q_proj.bias", "H*d", rows=llama_q, when=attention_bias
        ),
        copy("blk.{i}.attn_k.weight", _ATTN + "k_proj.weight", "K*d", "D", rows=llama_k),
        copy(
            "blk.{i}.attn_k.bias", _ATTN + "k_proj.bias", "K*d", rows=llama_k, when=attention_bias
        ),
        copy("blk.{i}.attn_v.weight", _ATTN + "v_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_v.bias", _ATTN + "v_proj.bias", "K*d", when=attention_bias),
        copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
        copy("blk.{i}.attn_output.bias", _ATTN + "o_proj.bias", "D", when=attention_bias),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        copy("blk.{i}.ffn_gate.weight", _MLP + "gate_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_gate.bias", _MLP + "gate_proj.bias", "F", when=mlp_bias),
        copy("blk.{i}.ffn_up.weight", _MLP + "up_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _MLP + "up_proj.bias", "F", when=mlp_bias),
        copy("blk.{i}.ffn_down.weight", _MLP + "down_proj.weight", "D", "F"),
        copy("blk.{i}.ffn_down.bias", _MLP + "down_proj.bias", "D", when=mlp_bias),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    tokenizer=TokenizerSpec(pre="llama-bpe"),
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
