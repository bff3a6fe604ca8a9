"""The original SantaCoder (`GPT2LMHeadCustomModel`) → llama.cpp's `starcoder` graph.

Source: bigcode/santacoder `modeling_gpt2_mq.py`, read, never run: GPTBigCode's network, with q apart from
k and v, and with GPT-2's Conv1D layout, (in, out), for every matrix. So each matrix is turned, and q is
stacked over [k | v].
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, layer_norm
from converters.families.gpt_bigcode import dims as gpt2_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Part, Require, TensorSpec, TokenizerSpec, copy

_LAYER = "transformer.h.{i}."


def dims(c: HfConfig) -> Dims:
    """GPT-2's field names; multi-query is called `attention_head_type` here."""
    return gpt2_dims(HfConfig({**c.values, "multi_query": True}, c.where))


def turned(name: str, source: str, rows: str, columns: str) -> TensorSpec:
    """A Conv1D matrix (in, out) as (out, in)."""
    return TensorSpec(name, (Part(_LAYER + source, (columns, rows), transpose=True),))


SPEC = ArchSpec(
    architecture="GPT2LMHeadCustomModel",
    gguf="starcoder",
    dims=dims,
    keys=(*GEOMETRY, layer_norm("layer_norm_epsilon")),
    require=(
        Require("attention_head_type", ("multiquery",), absent="multihead"),
        Require(
            "activation_function", ("gelu_fast", "gelu_new", "gelu_pytorch_tanh"), absent="gelu_new"
        ),
        Require("scale_attn_weights", (True,), absent=True),
        Require("scale_attn_by_inverse_layer_idx", (False,), absent=False),
        Require("add_cross_attention", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
        copy("position_embd.weight", "transformer.wpe.weight", "T", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "ln_1.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "ln_1.bias", "D"),
        TensorSpec(
            "blk.{i}.attn_qkv.weight",
            (
                Part(_LAYER + "attn.q_attn.weight", ("D", "D"), transpose=True),
                Part(_LAYER + "attn.kv_attn.weight", ("D", "2*d"), transpose=True),
            ),
        ),
        TensorSpec(
            "blk.{i}.attn_qkv.bias",
            (
                Part(_LAYER + "attn.q_attn.bias", ("D",)),
                Part(_LAYER + "attn.kv_attn.bias", ("2*d",)),
            ),
        ),
        turned("blk.{i}.attn_output.weight", "attn.c_proj.weight", "D", "D"),
        copy("blk.{i}.attn_output.bias", _LAYER + "attn.c_proj.bias", "D"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "ln_2.weight", "D"),
        copy("blk.{i}.ffn_norm.bias", _LAYER + "ln_2.bias", "D"),
        turned("blk.{i}.ffn_up.weight", "mlp.c_fc.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.c_fc.bias", "F"),
        turned("blk.{i}.ffn_down.weight", "mlp.c_proj.weight", "D", "F"),
        copy("blk.{i}.ffn_down.bias", _LAYER + "mlp.c_proj.bias", "D"),
        copy("output_norm.weight", "transformer.ln_f.weight", "D"),
        copy("output_norm.bias", "transformer.ln_f.bias", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    tokenizer=TokenizerSpec(pre="starcoder"),
    drop=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    prefix="transformer.",
    ties_by_default=True,
)
