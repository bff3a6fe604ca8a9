"""GPTBigCode (StarCoder, StarCoderPlus, WizardCoder, gpt_bigcode-santacoder) → llama.cpp's `starcoder` graph.

Source: transformers `modeling_gpt_bigcode.py`; llama.cpp `src/models/starcoder.cpp`. With `multi_query`
(all published models) `c_attn` is [q | k | v] with one key and value head, as the graph wants it; without,
it is fused head by head and must be reordered. The graph computes tanh GELU; configs that say erf `gelu`
differ by at most 0.0005 in each activation.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, IntArray, Require, TokenizerSpec, copy
from converters.transforms import everything, qkv_by_head


def dims(c: HfConfig) -> Dims:
    """GPT-2's field names."""
    n_embd, n_head = c.integer("n_embd"), c.integer("n_head")
    return Dims(
        n_embd=n_embd, n_layer=c.integer("n_layer"), n_head=n_head,
        n_head_kv=1 if c.flag("multi_query", absent=True) else n_head,
        n_inner=c.integer("n_inner", absent=4 * n_embd), n_vocab=c.integer("vocab_size"),
        n_ctx=c.integer("n_positions"),
    )  # fmt: skip


def qkv(d: Dims) -> IntArray:
    """As it is with one key/value head; by head otherwise."""
    multi_query = d.n_head_kv == 1 and d.n_head > 1
    return everything("D + 2*d")(d) if multi_query else qkv_by_head(d)


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
        copy("blk.{i}.attn_norm.weight", _LAYER + "ln_1.weight", "D"),
        copy("blk.{i}.attn_norm.bias", _LAYER + "ln_1.bias", "D"),
        copy("blk.{i}.attn_qkv.weight", _LAYER + "attn.c_attn.weight", "D + 2*K*d", "D", rows=qkv),
        copy("blk.{i}.attn_qkv.bias", _LAYER + "attn.c_attn.bias", "D + 2*K*d", rows=qkv),
        copy("blk.{i}.attn_output.weight", _LAYER + "attn.c_proj.weight", "D", "D"),
        copy("blk.{i}.attn_output.bias", _LAYER + "attn.c_proj.bias", "D"),
        copy("blk.{i}.ffn_norm.weight", _LAYER + "ln_2.weight", "D"),
        copy("blk.{i}.ffn_norm.bias", _LAYER + "ln_2.bias", "D"),
        copy("blk.{i}.ffn_up.weight", _LAYER + "mlp.c_fc.weight", "F", "D"),
        copy("blk.{i}.ffn_up.bias", _LAYER + "mlp.c_fc.bias", "F"),
        copy("blk.{i}.ffn_down.weight", _LAYER + "mlp.c_proj.weight", "D", "F"),
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
