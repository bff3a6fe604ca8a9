"""StableLM (stable-code-3b) → llama.cpp's `stablelm` graph.

Source: transformers `modeling_stablelm.py`; llama.cpp `src/models/stablelm.cpp`. Both rotate half-split
pairs of a quarter of each head. Heads with their own norms and the parallel residual (StableLM 2 12B) are
refused: no code model has them.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, TokenizerSpec, copy


def dims(c: HfConfig) -> Dims:
    """The usual names; a quarter of each head is rotated unless the config says otherwise."""
    return modern_dims(c, fraction=0.25)


def qkv_bias(c: HfConfig) -> bool:
    """Whether q, k and v have biases."""
    return c.flag("use_qkv_bias", absent=False)


_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="StableLmForCausalLM",
    gguf="stablelm",
    dims=dims,
    keys=(
        *GEOMETRY,
        layer_norm("layer_norm_eps"),
        *ROPE,
        Key("use_parallel_residual", lambda c, d: False),
    ),
    require=(
        Require("hidden_act", ("silu",), absent="silu"),
        Require("qk_layernorm", (False,), absent=False),
        Require("use_parallel_residual", (False,), absent=False),
        Require("tie_word_embeddings", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "input_layernorm.bias", "D"),
        copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D"),
        copy("blk.{i}.attn_q.bias", _ATTN + "q_proj.bias", "H*d", when=qkv_bias),
        copy("blk.{i}.attn_k.weight", _ATTN + "k_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_k.bias", _ATTN + "k_proj.bias", "K*d", when=qkv_bias),
        copy("blk.{i}.attn_v.weight", _ATTN + "v_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_v.bias", _ATTN + "v_proj.bias", "K*d", when=qkv_bias),
        copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        copy("blk.{i}.ffn_norm.bias", _LAYER + "post_attention_layernorm.bias", "D"),
        copy("blk.{i}.ffn_gate.weight", _MLP + "gate_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_up.weight", _MLP + "up_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_down.weight", _MLP + "down_proj.weight", "D", "F"),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output_norm.bias", "model.norm.bias", "D"),
        copy("output.weight", "lm_head.weight", "V", "D"),
    ),
    tokenizer=TokenizerSpec(pre="stablelm2"),
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
