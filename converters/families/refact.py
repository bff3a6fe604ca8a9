"""Refact-1.6B (`GPTRefactForCausalLM`) → llama.cpp's `jais` graph.

Source: smallcloudai/Refact-1_6B-fim `modeling_gpt_refact.py` and its model card; llama.cpp `src/models/jais.cpp`. The
network has LayerNorm without bias, multi-query attention with ALiBi, and SwiGLU. llama.cpp's `refact` graph computes
RMSNorm, which does not subtract the mean, so its logits differ; `jais` computes the same layers with LayerNorm. It
demands biases, which are zeros, and divides scores by the head size instead of its root, so q is multiplied by that
root. The root must be a power of 2 (8 in the published model), by which every float type multiplies exactly.
"""

from __future__ import annotations

from converters.families.common import GEOMETRY, gpt2_dims, layer_norm
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Key, Require, SourceRows, TensorSpec, copy, zeros
from converters.transforms import first_half, second_half

MULTIPLE = 256  # of the feed-forward size, `multiple_of` in the code


def dims(c: HfConfig) -> Dims:
    """Read the geometry; two thirds of `n_inner`, 4·n_embd by default, are rounded up to a multiple of 256."""
    d = gpt2_dims(c, multi_query=True)
    return Dims(
        d.n_embd, d.n_layer, d.n_head, d.n_head_kv, -(-(2 * d.n_inner // 3) // MULTIPLE) * MULTIPLE, d.n_vocab, d.n_ctx
    )  # fmt: skip


def root(d: Dims) -> float:
    """Return the root of the head size."""
    return float(d.head_dim**0.5)


def check(d: Dims) -> list[str]:
    """Return a problem if q cannot be multiplied exactly."""
    exact = root(d) in (2.0**n for n in range(8))
    return [] if exact else [f"the head size is {d.head_dim}; its root must be a power of 2"]


_LAYER = "transformer.h.{i}."
_ATTN, _MLP = _LAYER + "attn.", _LAYER + "mlp."


def norm(name: str, source: str) -> tuple[TensorSpec, TensorSpec]:
    """Return a norm's weight, and zeros as its bias."""
    return copy(f"{name}.weight", f"{source}.weight", "D"), zeros(f"{name}.bias", "D")


SPEC = ArchSpec(
    architecture="GPTRefactForCausalLM",
    gguf="jais",
    dims=dims,
    keys=(
        *GEOMETRY,
        layer_norm("layer_norm_epsilon"),
        Key("attention.max_alibi_bias", lambda c, d: 8.0),
    ),
    require=(
        Require("multi_query", (True,), absent=True),
        Require("add_cross_attention", (False,), absent=False),
    ),
    tensors=(
        copy("token_embd.weight", "transformer.wte.weight", "V", "D"),
        *norm("blk.{i}.attn_norm", _LAYER + "ln_1"),
        TensorSpec(
            "blk.{i}.attn_qkv.weight",
            (
                SourceRows(_ATTN + "q.weight", ("D", "D"), scale=root),
                SourceRows(_ATTN + "kv.weight", ("2*d", "D")),
            ),
        ),
        zeros("blk.{i}.attn_qkv.bias", "D + 2*d"),
        copy("blk.{i}.attn_output.weight", _ATTN + "c_proj.weight", "D", "D"),
        zeros("blk.{i}.attn_output.bias", "D"),
        *norm("blk.{i}.ffn_norm", _LAYER + "ln_2"),
        copy("blk.{i}.ffn_gate.weight", _MLP + "gate_up_proj.weight", "2*F", "D", rows=first_half),
        zeros("blk.{i}.ffn_gate.bias", "F"),
        copy("blk.{i}.ffn_up.weight", _MLP + "gate_up_proj.weight", "2*F", "D", rows=second_half),
        zeros("blk.{i}.ffn_up.bias", "F"),
        copy("blk.{i}.ffn_down.weight", _MLP + "c_proj.weight", "D", "F"),
        zeros("blk.{i}.ffn_down.bias", "D"),
        *norm("output_norm", "ln_f"),
        copy("output.weight", "lm_head.weight", "V", "D"),
    ),
    pre="refact",
    check=check,
)
