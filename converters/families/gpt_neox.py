"""GPT-NeoX (StableCode-instruct-alpha, Pythia) → llama.cpp's `gptneox` graph.

Source: transformers `modeling_gpt_neox.py`; llama.cpp `src/models/gptneox.cpp`. `query_key_value` is fused
head by head; the graph wants all q, all k, all v. Both rotate half-split pairs. The graph computes tanh
GELU; configs that say erf `gelu` differ by at most 0.0005 in each activation.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, ROPE, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, TokenizerSpec, copy
from converters.transforms import qkv_by_head


def dims(c: HfConfig) -> Dims:
    """One head count for all; a quarter of each head is rotated unless the config says otherwise."""
    n_embd, n_head = c.integer("hidden_size"), c.integer("num_attention_heads")
    return Dims(
        n_embd=n_embd, n_layer=c.integer("num_hidden_layers"), n_head=n_head, n_head_kv=n_head,
        n_inner=c.integer("intermediate_size"), n_vocab=c.integer("vocab_size"),
        n_ctx=c.integer("max_position_embeddings"),
        rotary_dim=int(c.rope(0.25).fraction * (n_embd // max(1, n_head))),
    )  # fmt: skip


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
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "input_layernorm.bias", "D"),
        copy(
            "blk.{i}.attn_qkv.weight",
            _LAYER + "attention.query_key_value.weight",
            "3*D",
            "D",
            rows=qkv_by_head,
        ),
        copy(
            "blk.{i}.attn_qkv.bias",
            _LAYER + "attention.query_key_value.bias",
            "3*D",
            rows=qkv_by_head,
        ),
        copy("blk.{i}.attn_output.weight", _LAYER + "attention.dense.weight", "D", "D"),
        copy("blk.{i}.attn_output.bias", _LAYER + "attention.dense.bias", "D"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        copy("blk.{i}.ffn_norm.bias", _LAYER + "post_attention_layernorm.bias", "D"),
        copy("blk.{i}.ffn_up.weight", _LAYER + "mlp.dense_h_to_4h.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.dense_h_to_4h.bias", "F"),
        copy("blk.{i}.ffn_down.weight", _LAYER + "mlp.dense_4h_to_h.weight", "D", "F"),
        copy("blk.{i}.ffn_down.bias", _LAYER + "mlp.dense_4h_to_h.bias", "D"),
        copy("output_norm.weight", "gpt_neox.final_layer_norm.weight", "D"),
        copy("output_norm.bias", "gpt_neox.final_layer_norm.bias", "D"),
        copy("output.weight", "embed_out.weight", "V", "D"),
    ),
    tokenizer=TokenizerSpec(pre="gpt-2"),
    drop=(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    prefix="gpt_neox.",
)
