"""GPTBigCode (StarCoder, StarCoderPlus, WizardCoder, gpt_bigcode-santacoder) → llama.cpp's `starcoder` graph.

Source: transformers `modeling_gpt_bigcode.py`; llama.cpp `src/models/starcoder.cpp`. With `multi_query`
(all published models) `c_attn` is [q | k | v] with one key and value head, as in the graph; without it, rows
are fused head by head and reordered. The graph computes tanh GELU; erf `gelu` differs by at most 0.0005 in
each activation.
"""

from __future__ import annotations

import numpy as np

from converters.families.common import GEOMETRY, gpt2_dims, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, IntArray, Require, affine, copy
from converters.transforms import qkv_by_head


def dims(c: HfConfig) -> Dims:
    """Read the geometry from GPT-2's field names; by default there is one key/value head."""
    return gpt2_dims(c, multi_query=c.flag("multi_query", absent=True))


def qkv(d: Dims) -> IntArray:
    """Return the row order of `c_attn`: unchanged with one key/value head, otherwise reordered by head."""
    multi_query = d.n_head_kv == 1 and d.n_head > 1
    return np.arange(d.size("D + 2*d")) if multi_query else qkv_by_head(d)


_LAYER = "transformer.h.{i}."

SPEC = ArchSpec(
    architecture="GPTBigCodeForCausalLM",
    gguf="starcoder",
    dims=dims,
    keys=(*GEOMETRY, layer_norm("layer_norm_epsilon")),
    require=(
        Require(
            "activation_function",
            ("gelu_pytorch_tanh", "gelu_new", "gelu"),
            absent="gelu_pytorch_tanh",
        ),
        Require("scale_attn_weights", (True,), absent=True),
        Require("add_cross_attention", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
        copy("position_embd.weight", "transformer.wpe.weight", "T", "D", positions=True),
        *affine("blk.{i}.attn_norm", _LAYER + "ln_1", "D"),
        *affine("blk.{i}.attn_qkv", _LAYER + "attn.c_attn", "D + 2*K*d", "D", rows=qkv),
        *affine("blk.{i}.attn_output", _LAYER + "attn.c_proj", "D", "D"),
        *affine("blk.{i}.ffn_norm", _LAYER + "ln_2", "D"),
        *affine("blk.{i}.ffn_up", _LAYER + "mlp.c_fc", "F", "D"),
        *affine("blk.{i}.ffn_down", _LAYER + "mlp.c_proj", "D", "F"),
        *affine("output_norm", "transformer.ln_f", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="starcoder",
    drop=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    prefix="transformer.",
    ties_by_default=True,
)
