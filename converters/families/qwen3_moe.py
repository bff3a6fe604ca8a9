"""Qwen3MoE (Qwen3-Coder-30B-A3B) → llama.cpp's `qwen3moe` graph.

Source: transformers `modeling_qwen3_moe.py`; llama.cpp `src/models/qwen3moe.cpp`. The attention is Qwen3's. Every
layer of the graph has experts, and the weights of the selected ones are divided by their sum.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import qwen3
from converters.families.common import modern_dims, rotates_all
from converters.families.experts import EXPERT_SIZE, EXPERTS, check_experts, experts
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require

_MLP = "model.layers.{i}.mlp."


def dims(c: HfConfig) -> Dims:
    """Read the geometry; transformers 5 writes `num_local_experts` instead of `num_experts`."""
    count = "num_local_experts" if c.values.get("num_experts") is None else "num_experts"
    more = {
        "E": c.integer(count), "U": c.integer("num_experts_per_tok", absent=8),
        "X": c.integer("moe_intermediate_size", absent=768),
    }  # fmt: skip
    return replace(modern_dims(c), more=more)


SPEC: ArchSpec = replace(
    qwen3.SPEC,
    architecture="Qwen3MoeForCausalLM",
    gguf="qwen3moe",
    dims=dims,
    keys=(*qwen3.SPEC.keys, *EXPERTS, EXPERT_SIZE),
    require=(
        *qwen3.SPEC.require,
        Require("norm_topk_prob", (True,), absent=False),
        Require("decoder_sparse_step", (1,), absent=1),
        Require("mlp_only_layers", ([],), absent=[]),
    ),
    tensors=(*qwen3.ENDS, *qwen3.ATTENTION, *experts(_MLP, _MLP)),
    check=lambda d: rotates_all(d) + check_experts(d),
)
