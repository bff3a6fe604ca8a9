"""DeepSeek-V2 (DeepSeek-Coder-V2-Lite) → llama.cpp's `deepseek2` graph.

Source: transformers `modeling_deepseek_v2.py`; llama.cpp `src/models/deepseek2.cpp`. The first B layers have a usual
feed-forward network, and the others experts, of which some, S dimensions together, are used for every token. Weights
of experts are not divided by their sum. Norms of compressed vectors have an epsilon of 1e-6 in transformers, and the
layers' in the graph.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import latent_attention
from converters.families.common import GEOMETRY, gated_mlp, modern_dims, rms_norm
from converters.families.experts import EXPERT_SIZE, EXPERTS, check_experts, experts
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, copy

_LAYER = "model.layers.{i}."
_MLP, _SHARED = _LAYER + "mlp.", _LAYER + "mlp.shared_experts."


def dims(c: HfConfig) -> Dims:
    """Read the geometry; for the letters of the attention, see `latent_attention`."""
    kept, rotated = c.integer("qk_nope_head_dim", 128), c.integer("qk_rope_head_dim", 64)
    size, shared = c.integer("moe_intermediate_size", 1407), c.integer("n_shared_experts", 2)
    d = modern_dims(c.over(head_dim=rotated, rope_parameters=None, rope_scaling=None))
    more = {
        "E": c.integer("n_routed_experts", 64), "U": c.integer("num_experts_per_tok"), "X": size, "S": shared * size,
        "N": kept, "W": c.integer("v_head_dim", 128), "C": c.integer("kv_lora_rank", 512), "G": d.n_head_kv,
    }  # fmt: skip
    optional = {"Q": c.integer("q_lora_rank", 0), "B": c.integer("first_k_dense_replace", 0)}
    more |= {letter: n for letter, n in optional.items() if n}
    return replace(d, n_head_kv=1, rotary_dim=rotated, head_size=kept + rotated, more=more)


def dense(d: Dims) -> range:
    """Return the layers without experts."""
    return range(min(d.more.get("B", 0), d.n_layer))


def sparse(d: Dims) -> range:
    """Return the layers with experts."""
    return range(dense(d).stop, d.n_layer)


SPEC = ArchSpec(
    architecture="DeepseekV2ForCausalLM",
    gguf="deepseek2",
    dims=dims,
    keys=(
        *GEOMETRY, rms_norm(1e-6), *latent_attention.KEYS, *EXPERTS, EXPERT_SIZE,
        Key("expert_shared_count", lambda c, d: d.more["S"] // d.more["X"]),
        Key("expert_weights_scale", lambda c, d: c.number("routed_scaling_factor", absent=1.0)),
        Key("expert_weights_norm", lambda c, d: False),
        Key("expert_gating_func", lambda c, d: 1),  # softmax
        Key("leading_dense_block_count", lambda c, d: dense(d).stop),
        Key("vocab_size", lambda c, d: d.n_vocab),
    ),
    require=(
        Require("hidden_act", ("silu",), absent="silu"),
        Require("attention_bias", (False,), absent=False),
        Require("mlp_bias", (False,), absent=False),
        Require("rms_norm_eps", (1e-6,), absent=1e-6),
        Require("topk_method", ("greedy",), absent="greedy"),
        Require("scoring_func", ("softmax",), absent="softmax"),
        Require("norm_topk_prob", (False,), absent=False),
        Require("moe_layer_freq", (1,), absent=1),
    ),
    tensors=(
        copy("token_embd.weight", "model.embed_tokens.weight", "V", "D"),
        copy("blk.{i}.attn_norm.weight", _LAYER + "input_layernorm.weight", "D"),
        *latent_attention.TENSORS,
        copy("blk.{i}.ffn_norm.weight", _LAYER + "post_attention_layernorm.weight", "D"),
        *(replace(t, layers=dense) for t in gated_mlp("", _MLP, "F")),
        *experts(_MLP, _MLP, layers=sparse),
        *(replace(t, layers=sparse) for t in gated_mlp("_shexp", _SHARED, "S")),
        copy("output_norm.weight", "model.norm.weight", "D"),
        copy("output.weight", "lm_head.weight", "V", "D", tied=True),
    ),
    pre="deepseek-llm",
    drop=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    prefix="model.",
    check=lambda d: latent_attention.check(d) + check_experts(d),
)  # fmt: skip
