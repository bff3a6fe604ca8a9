"""GPT-J → llama.cpp's `phi2` graph.

Source: transformers `modeling_gptj.py`; llama.cpp `src/models/phi2.cpp`. Both compute
x + attn(ln(x)) + mlp(ln(x)) with partial rotary, tanh GELU and a head with a bias. There are two differences:
phi2 rotates half-split pairs and GPT-J neighbouring pairs, so the rows of q and k are reordered; and
phi2 requires `attn_output.bias`, which GPT-J lacks, so zeros are written.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, gpt2_dims, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, TensorSpec, affine, copy, zeros
from converters.transforms import gptj_rotary


def dims(c: HfConfig) -> Dims:
    """Read the geometry from GPT-J's and CodeGen's field names."""
    return gpt2_dims(c, rotary_dim=c.integer("rotary_dim"))


_LAYER = "transformer.h.{i}."

TENSORS: tuple[TensorSpec, ...] = (
    copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
    *affine("blk.{i}.attn_norm", _LAYER + "ln_1", "D"),
    copy("blk.{i}.attn_q.weight", _LAYER + "attn.q_proj.weight", "D", "D", rows=gptj_rotary),
    copy("blk.{i}.attn_k.weight", _LAYER + "attn.k_proj.weight", "D", "D", rows=gptj_rotary),
    copy("blk.{i}.attn_v.weight", _LAYER + "attn.v_proj.weight", "D", "D"),
    copy("blk.{i}.attn_output.weight", _LAYER + "attn.out_proj.weight", "D", "D"),
    zeros("blk.{i}.attn_output.bias", "D"),
    *affine("blk.{i}.ffn_up", _LAYER + "mlp.fc_in", "F", "D"),
    *affine("blk.{i}.ffn_down", _LAYER + "mlp.fc_out", "D", "F"),
    *affine("output_norm", "transformer.ln_f", "D"),
    *affine("output", "lm_head", "V", "D"),
)

SPEC = ArchSpec(
    architecture="GPTJForCausalLM",
    gguf="phi2",
    dims=dims,
    keys=(
        *GEOMETRY,
        layer_norm("layer_norm_epsilon"),
        Key("rope.dimension_count", lambda c, d: d.rotary_dim),
    ),
    require=(
        Require("activation_function", ("gelu_new",), absent="gelu_new"),
        Require("scale_attn_weights", (True,), absent=True),
        Require("tie_word_embeddings", (False,), absent=False),
    ),
    tensors=TENSORS,
    # causal mask and fill value, which old versions of transformers saved
    drop=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias|causal_mask|embed_positions)",),
    pre="gpt-2",
)
