"""Phi (phi-1, phi-1.5, phi-2) → llama.cpp's `phi2` graph.

Source: transformers `modeling_phi.py`; llama.cpp `src/models/phi2.cpp`. Both rotate half-split pairs of a
part of each head (0.5 in phi-1, 0.4 in phi-2) and compute tanh GELU; one LayerNorm feeds both branches.
"""

from __future__ import annotations

from functools import partial

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.spec import ArchSpec, Require, affine, copy

_LAYER = "model.layers.{i}."
_ATTN, _MLP = _LAYER + "self_attn.", _LAYER + "mlp."

SPEC = ArchSpec(
    architecture="PhiForCausalLM",
    gguf="phi2",
    dims=partial(modern_dims, fraction=0.5),
    keys=(*GEOMETRY, layer_norm("layer_norm_eps"), *ROPE),
    require=(
        Require("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), absent="gelu_new"),
        Require("qk_layernorm", (False,), absent=False),
        Require("tie_word_embeddings", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        *affine("blk.{i}.attn_norm", _LAYER + "input_layernorm", "D"),
        *affine("blk.{i}.attn_q", _ATTN + "q_proj", "H*d", "D"),
        *affine("blk.{i}.attn_k", _ATTN + "k_proj", "K*d", "D"),
        *affine("blk.{i}.attn_v", _ATTN + "v_proj", "K*d", "D"),
        *affine("blk.{i}.attn_output", _ATTN + "dense", "D", "H*d"),
        *affine("blk.{i}.ffn_up", _MLP + "fc1", "F", "D"),
        *affine("blk.{i}.ffn_down", _MLP + "fc2", "D", "F"),
        *affine("output_norm", "model.final_layernorm", "D"),
        *affine("output", "lm_head", "V", "D"),
    ),
    pre="gpt-2",
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
)
