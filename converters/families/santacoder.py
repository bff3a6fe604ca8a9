"""The original SantaCoder (`GPT2LMHeadCustomModel`) → llama.cpp's `starcoder` graph.

Source: bigcode/santacoder `modeling_gpt2_mq.py`. The network is GPTBigCode's, but q is stored apart from k and v,
and every matrix of a layer has GPT-2's Conv1D layout, (in, out). The spec is GPTBigCode's with each matrix
transposed, and q stacked over [k | v].
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import gpt_bigcode
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require, SourceRows, TensorSpec


def dims(c: HfConfig) -> Dims:
    """Read the geometry; `attention_head_type` replaces `multi_query`, and SPEC requires "multiquery"."""
    return gpt_bigcode.dims(c.over(multi_query=True))


def conv1d(part: SourceRows) -> SourceRows:
    """Return the part, transposed if it is a layer's matrix, which is stored as (in, out)."""
    if ".h.{i}." in part.source and len(part.shape) == 2:
        return replace(part, shape=part.shape[::-1], transpose=True)
    return part


def unfused(spec: TensorSpec) -> TensorSpec:
    """Return GPTBigCode's tensor as read from SantaCoder's checkpoint."""
    parts = []
    for part in spec.parts:
        if ".c_attn." in part.source:
            for name, rows in (("q_attn", "D"), ("kv_attn", "2*d")):
                source = part.source.replace("c_attn", name)
                parts.append(conv1d(SourceRows(source, (rows, *part.shape[1:]))))
        else:
            parts.append(conv1d(part))
    return replace(spec, parts=tuple(parts))


SPEC: ArchSpec = replace(
    gpt_bigcode.SPEC,
    architecture="GPT2LMHeadCustomModel",
    dims=dims,
    require=(
        Require("attention_head_type", ("multiquery",), absent="multihead"),
        Require(
            "activation_function", ("gelu_fast", "gelu_new", "gelu_pytorch_tanh"), absent="gelu_new"
        ),
        Require("scale_attn_weights", (True,), absent=True),
        Require("scale_attn_by_inverse_layer_idx", (False,), absent=False),
        Require("add_cross_attention", (False,), absent=False),
    ),
    tensors=tuple(unfused(t) for t in gpt_bigcode.SPEC.tensors),
)
