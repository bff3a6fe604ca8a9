"""CodeGen2 (1B, 3.7B) → GPT-J's layout → llama.cpp's `phi2` graph.

Source: Salesforce/codegen2-1B `modeling_codegen.py`, which is CodeGen's with eight blocks in the fused matrix
instead of four; CTranslate2's converter treats codegen2-3_7B alike. The number is in the code, not in
config.json; no public source gives it for 7B and 16B, which are refused. Infilling with <mask_1> and <sep> is
not supported.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import codegen
from converters.spec import Dims

BLOCKS = 8
KNOWN = {(2048, 16, 16): "1B", (4096, 16, 16): "3.7B"}  # (n_embd, n_layer, n_head) as published


def check(dims: Dims) -> list[str]:
    """Refuse sizes whose layout is unknown."""
    if (dims.n_embd, dims.n_layer, dims.n_head) in KNOWN:
        return []
    return [
        f"a CodeGen2 of {dims.n_layer} layers, {dims.n_embd} wide, {dims.n_head} heads: into how many blocks its "
        "fused matrix is cut (mp_num) is only in the checkpoint's own code; it is known for 1B and 3.7B"
    ]


SPEC = replace(
    codegen.family(BLOCKS, meant=lambda config: "head_dim" in config.values), check=check
)
