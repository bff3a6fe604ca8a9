"""Mixtral → llama.cpp's `llama` graph with experts.

Source: transformers `modeling_mixtral.py`; llama.cpp `src/models/llama.cpp`. The attention is Llama's. The weights of
the selected experts are divided by their sum. On the Hub, each expert's gate, up and down are `w1`, `w3` and `w2`.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import llama
from converters.families.common import modern_dims, rms_norm
from converters.families.experts import EXPERTS, check_experts, experts
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims, Require

_LAYER = "model.layers.{i}."


def dims(c: HfConfig) -> Dims:
    """Read the geometry; the feed-forward size is that of one expert."""
    d = modern_dims(c)
    used = c.integer("num_experts_per_tok", absent=2)
    return replace(
        d, more={"E": c.integer("num_local_experts", absent=8), "U": used, "X": d.n_inner}
    )


SPEC: ArchSpec = replace(
    llama.SPEC,
    architecture="MixtralForCausalLM",
    dims=dims,
    keys=(*llama.SPEC.keys, rms_norm(1e-5), *EXPERTS),
    require=(*llama.SPEC.require, Require("sliding_window", (None,))),
    tensors=(
        *(t for t in llama.SPEC.tensors if ".mlp." not in t.parts[0].source),
        *experts(_LAYER + "block_sparse_moe.", _LAYER + "mlp.", ("w1", "w3", "w2")),
    ),
    check=check_experts,
)
