"""Granite 3.x → llama.cpp's `granite` graph.

Source: transformers `modeling_granite.py`; llama.cpp `src/models/granite.cpp`. The network is Llama's with four
multipliers: the embedding and each layer's two outputs are multiplied, attention scores are multiplied instead of
divided by the root of the head size, and logits are divided. All are written, since the graph's defaults differ from
transformers' (1). The graph ignores a multiplier of 0, so `config_ranges` excludes it.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import llama
from converters.families.common import multiplier
from converters.spec import ArchSpec

SPEC: ArchSpec = replace(
    llama.SPEC,
    architecture="GraniteForCausalLM",
    gguf="granite",
    keys=(
        *llama.SPEC.keys,
        multiplier("embedding_scale", "embedding_multiplier"),
        multiplier("residual_scale", "residual_multiplier"),
        multiplier("attention.scale", "attention_multiplier"),
        multiplier("logit_scale", "logits_scaling"),
    ),
    pre="starcoder",
)
