"""The families we convert. A new one is a file in `families/` and a line here."""

from __future__ import annotations

from converters.families import (
    codegen,
    gpt_bigcode,
    gpt_neox,
    gptj,
    llama,
    phi,
    qwen2,
    santacoder,
    stablelm,
    starcoder2,
)
from converters.spec import ArchSpec
from turbopilot.errors import UnsupportedModel, did_you_mean

FAMILIES: tuple[ArchSpec, ...] = (
    codegen.SPEC,
    gptj.SPEC,
    gpt_bigcode.SPEC,
    santacoder.SPEC,
    gpt_neox.SPEC,
    starcoder2.SPEC,
    stablelm.SPEC,
    llama.SPEC,
    qwen2.SPEC,
    phi.SPEC,
)


def find(architectures: list[str], where: str) -> ArchSpec:
    """The family of a config's `architectures`; `where` names the file in the error.

    Raises:
        UnsupportedModel: none of them is known; the hint offers near names.
    """
    known = {spec.architecture: spec for spec in FAMILIES}
    for name in architectures:
        if name in known:
            return known[name]
    named = ", ".join(architectures) or "no architecture"
    raise UnsupportedModel(
        f"{where}: {named} is not a family that can be converted",
        hint=did_you_mean(architectures[0] if architectures else "", known),
    )
