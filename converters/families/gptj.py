"""GPT-J → llama.cpp's `phi2` graph.

Source: transformers `modeling_gptj.py`; llama.cpp `src/models/phi2.cpp`. Both compute
x + attn(ln(x)) + mlp(ln(x)) with partial rotary, tanh GELU and a head with a bias. Two differences:
phi2 rotates half-split pairs where GPT-J rotates neighbours (a reordering of q's and k's rows), and
phi2 demands `attn_output.bias`, which GPT-J lacks (zeros).
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, TensorSpec, TokenizerSpec, copy, zeros
from converters.transforms import gptj_rotary


def dims(c: HfConfig) -> Dims:
    """GPT-J's and CodeGen's config fields; `n_inner: null` means 4·n_embd."""
    n_embd, n_head = c.integer("n_embd"), c.integer("n_head")
    return Dims(
        n_embd=n_embd, n_layer=c.integer("n_layer"), n_head=n_head, n_head_kv=n_head,
        n_inner=c.integer("n_inner", absent=4 * n_embd), n_vocab=c.integer("vocab_size"),
        n_ctx=c.integer("n_positions"), rotary_dim=c.integer("rotary_dim"),
    )  # fmt: skip


_LAYER = "transformer.h.{i}."

TENSORS: tuple[TensorSpec, ...] = (
    copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
    copy("blk.{i}.attn_norm.weight", _LAYER + "ln_1.weight", "D"),
    copy("blk.{i}.attn_norm.bias", _LAYER + "ln_1.bias", "D"),
    copy("blk.{i}.attn_q.weight", _LAYER + "attn.q_proj.weight", "D", "D", rows=gptj_rotary),
    copy("blk.{i}.attn_k.weight", _LAYER + "attn.k_proj.weight", "D", "D", rows=gptj_rotary),
    copy("blk.{i}.attn_v.weight", _LAYER + "attn.v_proj.weight", "D", "D"),
    copy("blk.{i}.attn_output.weight", _LAYER + "attn.out_proj.weight", "D", "D"),
    zeros("blk.{i}.attn_output.bias", "D"),
    copy("blk.{i}.ffn_up.weight", _LAYER + "mlp.fc_in.weight", "F", "D"),
    copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.fc_in.bias", "F"),
    copy("blk.{i}.ffn_down.weight", _LAYER + "mlp.fc_out.weight", "D", "F"),
    copy("blk.{i}.ffn_down.bias", _LAYER + "mlp.fc_out.bias", "D"),
    copy("output_norm.weight", "transformer.ln_f.weight", "D"),
    copy("output_norm.bias", "transformer.ln_f.bias", "D"),
    copy("output.weight", "lm_head.weight", "V", "D"),
    copy("output.bias", "lm_head.bias", "V"),
)

KEYS = (
    *GEOMETRY,
    layer_norm("layer_norm_epsilon"),
    Key("rope.dimension_count", lambda c, d: d.rotary_dim),
)

REQUIRE = (
    Require("activation_function", ("gelu_new",), absent="gelu_new"),
    Require("scale_attn_weights", (True,), absent=True),
    Require("tie_word_embeddings", (False,), absent=False),
)

SPEC = ArchSpec(
    architecture="GPTJForCausalLM",
    gguf="phi2",
    dims=dims,
    keys=KEYS,
    require=REQUIRE,
    tensors=TENSORS,
    # the causal mask and its fill value, saved by old versions and recomputed by the code
    drop=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)",),
    tokenizer=TokenizerSpec(pre="gpt-2"),
)
