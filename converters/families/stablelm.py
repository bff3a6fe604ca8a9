"""StableLM (stable-code-3b) → llama.cpp's `stablelm` graph.

Source: transformers `modeling_stablelm.py`; llama.cpp `src/models/stablelm.cpp`. Both rotate half-split
pairs of a quarter of each head. Per-head norms and the parallel residual (StableLM 2 12B) are refused: no code
model has them.
"""

from __future__ import annotations

from functools import partial

from converters.families.common import GEOMETRY, ROPE, gated_mlp, is_set, layer_norm, modern_dims
from converters.spec import ArchSpec, Key, Require, affine, copy

_LAYER = "model.layers.{i}."
_QKV_BIAS = is_set("use_qkv_bias")
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="StableLmForCausalLM",
    gguf="stablelm",
    dims=partial(modern_dims, fraction=0.25),
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
        *affine("blk.{i}.attn_norm", _LAYER + "input_layernorm", "D"),
        *affine("blk.{i}.attn_q", _ATTN + "q_proj", "H*d", "D", bias=_QKV_BIAS),
        *affine("blk.{i}.attn_k", _ATTN + "k_proj", "K*d", "D", bias=_QKV_BIAS),
        *affine("blk.{i}.attn_v", _ATTN + "v_proj", "K*d", "D", bias=_QKV_BIAS),
        copy("blk.{i}.attn_output.weight", _ATTN + "o_proj.weight", "D", "H*d"),
        *affine("blk.{i}.ffn_norm", _LAYER + "post_attention_layernorm", "D"),
        *gated_mlp("", _MLP, "F"),
        *affine("output_norm", "model.norm", "D"),
        copy("output.weight", "lm_head.weight", "V", "D"),
    ),
    pre="stablelm2",
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
