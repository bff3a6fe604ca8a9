"""CodeGen → GPT-J's layout → llama.cpp's `phi2` graph.

Source: transformers `modeling_codegen.py`. CodeGen is GPT-J with q, k and v fused into one matrix, cut
into four blocks of [q | v | k]; every other tensor has GPT-J's name. So its spec is GPT-J's, composed
with `TO_GPTJ`, which `convert --to gptj` also writes as a checkpoint of its own.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import gptj
from converters.spec import ArchSpec, Dims, Part, TensorSpec, TokenizerSpec
from converters.transforms import CODEGEN_BLOCKS, codegen_qkv, then

TO_GPTJ = {
    f"transformer.h.{{i}}.attn.{w}_proj.weight": Part(
        "transformer.h.{i}.attn.qkv_proj.weight", ("3*D", "D"), codegen_qkv(w)
    )
    for w in "qkv"
}
"""GPT-J's name → the rows of CodeGen's fused matrix that it is."""


def through_gptj(spec: TensorSpec) -> TensorSpec:
    """GPT-J's declaration of a tensor, reading from CodeGen's checkpoint."""
    parts = tuple(
        replace(TO_GPTJ[p.source], rows=then(TO_GPTJ[p.source].rows, p.rows))
        if p.source in TO_GPTJ
        else p
        for p in spec.parts
    )
    return replace(spec, parts=parts)


def check(dims: Dims) -> list[str]:
    """The four blocks hold whole heads."""
    if dims.n_head % CODEGEN_BLOCKS:
        return [
            f"n_head is {dims.n_head}; CodeGen's fused matrix needs a multiple of {CODEGEN_BLOCKS}"
        ]
    return []


SPEC: ArchSpec = replace(
    gptj.SPEC,
    architecture="CodeGenForCausalLM",
    tensors=tuple(through_gptj(t) for t in gptj.TENSORS),
    tokenizer=TokenizerSpec(
        pre="phi-2"
    ),  # GPT-2's regex; runs of blanks are added tokens, as in phi-2
    check=check,
)
