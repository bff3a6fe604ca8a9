"""GPT-NeoX (StableCode-instruct-alpha, Pythia) → llama.cpp's `gptneox` graph.

Source: transformers `modeling_gpt_neox.py`; llama.cpp `src/models/gptneox.cpp`. `query_key_value` is fused
head by head; the graph needs [q | k | v]. Both rotate half-split pairs. The graph computes tanh GELU; erf
`gelu` differs by at most 0.0005 in each activation.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, layer_norm, modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, affine, copy
from converters.transforms import qkv_by_head


def dims(c: HfConfig) -> Dims:
    """Read the geometry; query and key/value heads are equal in number, and 0.25 of a head is rotated by default."""
    return modern_dims(c.over(num_key_value_heads=None, head_dim=None), fraction=0.25)


_LAYER = "gpt_neox.layers.{i}."

SPEC = ArchSpec(
    architecture="GPTNeoXForCausalLM",
    gguf="gptneox",
    dims=dims,
    keys=(
        *GEOMETRY,
        layer_norm("layer_norm_eps"),
        *ROPE,
        Key("use_parallel_residual", lambda c, d: c.flag("use_parallel_residual", absent=True)),
    ),
    require=(
        Require(
            "hidden_act", ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"), absent="gelu"
        ),
        Require("attention_bias", (True,), absent=True),
        Require("tie_word_embeddings", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "gpt_neox.embed_in.weight", "V", "D"),
        *affine("blk.{i}.attn_norm", _LAYER + "input_layernorm", "D"),
        *affine(
            "blk.{i}.attn_qkv", _LAYER + "attention.query_key_value", "3*D", "D", rows=qkv_by_head
        ),
        *affine("blk.{i}.attn_output", _LAYER + "attention.dense", "D", "D"),
        *affine("blk.{i}.ffn_norm", _LAYER + "post_attention_layernorm", "D"),
        *affine("blk.{i}.ffn_up", _LAYER + "mlp.dense_h_to_4h", "F", "D"),
        *affine("blk.{i}.ffn_down", _LAYER + "mlp.dense_4h_to_h", "D", "F"),
        *affine("output_norm", "gpt_neox.final_layer_norm", "D"),
        copy("output.weight", "embed_out.weight", "V", "D"),
    ),
    pre="gpt-2",
    drop=(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    prefix="gpt_neox.",
)
