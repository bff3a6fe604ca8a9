"""CodeGen2 (1B, 3.7B) → GPT-J's layout → llama.cpp's `phi2` graph.

Source: Salesforce/codegen2-1B `modeling_codegen.py`, which is CodeGen's with eight blocks in the fused matrix
instead of four; CTranslate2's converter does the same for codegen2-3_7B. The number is in the code, not in
config.json. No public source gives it for 7B and 16B, so these are refused. Infilling with <mask_1> and <sep> is
not supported.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import codegen
from converters.spec import Dims

BLOCKS = 8
KNOWN = {(2048, 16, 16): "1B", (4096, 16, 16): "3.7B"}  # (n_embd, n_layer, n_head) as published


def check(dims: Dims) -> list[str]:
    """Return a problem if the layout for this size is unknown."""
    if (dims.n_embd, dims.n_layer, dims.n_head) in KNOWN:
        return []
    return [
        f"CodeGen2 with {dims.n_layer} layers, hidden size {dims.n_embd} and {dims.n_head} heads: the number of "
        "blocks in its fused QKV matrix (mp_num) is not in config.json; it is known for 1B and 3.7B"
    ]


SPEC = replace(
    codegen.family(BLOCKS, meant=lambda config: "head_dim" in config.values), check=check
)
