"""Mistral (Codestral-22B) → llama.cpp's `llama` graph.

Source: transformers `modeling_mistral.py`. The network is Llama's without biases, with a sliding window. The graph has
no sliding window, so the context is limited to the window's size, within which the results are the same.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import llama
from converters.families.common import modern_dims
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec, Dims

_WINDOW = 4096  # transformers' default; a window of null, as in Codestral's config, is none


def dims(c: HfConfig) -> Dims:
    """Read the geometry from Llama's field names; limit the context to the sliding window."""
    d = modern_dims(c)
    named = "sliding_window" in c.values
    window = c.integer("sliding_window", absent=d.n_ctx) if named else _WINDOW
    return replace(d, n_ctx=min(d.n_ctx, window))


SPEC: ArchSpec = replace(
    llama.SPEC,
    architecture="MistralForCausalLM",
    dims=dims,
    tensors=tuple(t for t in llama.SPEC.tensors if t.when is None),
)
