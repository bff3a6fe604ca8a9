"""CodeGen → GPT-J's layout → llama.cpp's `phi2` graph.

Source: transformers `modeling_codegen.py`. CodeGen is GPT-J with q, k and v fused into one matrix of
four blocks of [q | v | k]; every other tensor has GPT-J's name. Its spec is GPT-J's with q, k and v read as
rows of that matrix; `convert --to gptj` writes GPT-J's tensors from the same table.
"""

from __future__ import annotations

from dataclasses import replace

from converters.families import gptj
from converters.spec import ArchSpec, Condition, Dims, SourceRows, TensorSpec
from converters.transforms import codegen_qkv, then

ARCHITECTURE = "CodeGenForCausalLM"
BLOCKS = 4  # `mp_num` in transformers' CodeGen
_FUSED = "transformer.h.{i}.attn.qkv_proj.weight"


def unfuse(part: SourceRows, blocks: int) -> SourceRows:
    """Return the rows of CodeGen's checkpoint for one part of a GPT-J tensor."""
    for which in "qkv":
        if part.source == f"transformer.h.{{i}}.attn.{which}_proj.weight":
            return SourceRows(_FUSED, ("3*D", "D"), then(codegen_qkv(which, blocks), part.rows))
    return part


def family(blocks: int, meant: Condition) -> ArchSpec:
    """Return GPT-J's family with fused matrices of `blocks` blocks."""

    def check(dims: Dims) -> list[str]:
        whole = dims.n_head % blocks == 0  # heads in a block
        return [] if whole else [f"n_head is {dims.n_head}; it must be a multiple of {blocks}"]

    parts = [replace(p, rows=None) for t in gptj.TENSORS for p in t.parts]
    exported = tuple(TensorSpec(p.source, (unfuse(p, blocks),)) for p in parts)
    return replace(
        gptj.SPEC,
        architecture=ARCHITECTURE,
        tensors=tuple(
            replace(t, parts=tuple(unfuse(p, blocks) for p in t.parts)) for t in gptj.TENSORS
        ),
        # GPT-2's regex; runs of whitespace are added tokens, as in phi-2
        pre="phi-2",
        check=check,
        meant=meant,
        exports={"gptj": exported},
    )


# only CodeGen2's config has a field `head_dim`
SPEC = family(BLOCKS, meant=lambda config: "head_dim" not in config.values)
