"""Phi (phi-1, phi-1.5, phi-2) → llama.cpp's `phi2` graph.

Source: transformers `modeling_phi.py`; llama.cpp `src/models/phi2.cpp`. Both rotate half-split pairs of a
part of each head (0.5 in phi-1, 0.4 in phi-2) and compute tanh GELU; one LayerNorm feeds both branches.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require, TokenizerSpec, copy


def dims(c: HfConfig) -> Dims:
    """The usual names; half of each head is rotated unless the config says otherwise."""
    return modern_dims(c, fraction=0.5)


_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="PhiForCausalLM",
    gguf="phi2",
    dims=dims,
    keys=(*GEOMETRY, layer_norm("layer_norm_eps"), *ROPE),
    require=(
        Require("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), absent="gelu_new"),
        Require("qk_layernorm", (False,), absent=False),
        Require("tie_word_embeddings", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "input_layernorm.bias", "D"),
        copy("blk.{i}.attn_q.weight", _ATTN + "q_proj.weight", "H*d", "D"),
        copy("blk.{i}.attn_q.bias", _ATTN + "q_proj.bias", "H*d"),
        copy("blk.{i}.attn_k.weight", _ATTN + "k_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_k.bias", _ATTN + "k_proj.bias", "K*d"),
        copy("blk.{i}.attn_v.weight", _ATTN + "v_proj.weight", "K*d", "D"),
        copy("blk.{i}.attn_v.bias", _ATTN + "v_proj.bias", "K*d"),
        copy("blk.{i}.attn_output.weight", _ATTN + "dense.weight", "D", "H*d"),
        copy("blk.{i}.attn_output.bias", _ATTN + "dense.bias", "D"),
        copy("blk.{i}.ffn_up.weight", _MLP + "fc1.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _MLP + "fc1.bias", "F"),
        copy("blk.{i}.ffn_down.weight", _MLP + "fc2.weight", "D", "F"),
        copy("blk.{i}.ffn_down.bias", _MLP + "fc2.bias", "D"),
        copy("output_norm.weight", "model.final_layernorm.weight", "D"),
        copy("output_norm.bias", "model.final_layernorm.bias", "D"),
        copy("output.weight", "lm_head.weight", "V", "D"),
        copy("output.bias", "lm_head.bias", "V"),
    ),
    tokenizer=TokenizerSpec(pre="gpt-2"),
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
