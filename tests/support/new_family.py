"""Specification of GPT-2 for llama.cpp's `gpt2` graph: an unregistered family, as a contributor would write it.

Source: transformers `modeling_gpt2.py`; llama.cpp `src/models/gpt2.cpp`. Conv1D stores matrices (in, out).
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, gpt2_dims, layer_norm
from converters.spec import ArchSpec, Require, SourceRows, TensorSpec, affine, copy


def turned(name: str, source: str, *stored: str) -> TensorSpec:
    """Return the specification of a Conv1D matrix, which is stored as (in, out)."""
    return TensorSpec(name, (SourceRows(source, stored, transpose=True),))


_LAYER = "transformer.h.{i}."

SPEC = ArchSpec(
    architecture="GPT2LMHeadModel",
    gguf="gpt2",
    dims=gpt2_dims,
    keys=(*GEOMETRY, layer_norm("layer_norm_epsilon")),
    require=(
        Require("activation_function", ("gelu_new", "gelu_pytorch_tanh"), absent="gelu_new"),
        Require("scale_attn_by_inverse_layer_idx", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
        copy("position_embd.weight", "transformer.wpe.weight", "T", "D", positions=True),
        *affine("blk.{i}.attn_norm", _LAYER + "ln_1", "D"),
        turned("blk.{i}.attn_qkv.weight", _LAYER + "attn.c_attn.weight", "D", "3*D"),
        copy("blk.{i}.attn_qkv.bias", _LAYER + "attn.c_attn.bias", "3*D"),
        turned("blk.{i}.attn_output.weight", _LAYER + "attn.c_proj.weight", "D", "D"),
        copy("blk.{i}.attn_output.bias", _LAYER + "attn.c_proj.bias", "D"),
        *affine("blk.{i}.ffn_norm", _LAYER + "ln_2", "D"),
        turned("blk.{i}.ffn_up.weight", _LAYER + "mlp.c_fc.weight", "D", "F"),
        copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.c_fc.bias", "F"),
        turned("blk.{i}.ffn_down.weight", _LAYER + "mlp.c_proj.weight", "F", "D"),
        copy("blk.{i}.ffn_down.bias", _LAYER + "mlp.c_proj.bias", "D"),
        *affine("output_norm", "transformer.ln_f", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="gpt-2",
)
