"""The supported families. A new one is a file in `families/` and a line here."""

from __future__ import annotations

from converters.families import (
    codegen,
    codegen2,
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
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec
from turbopilot.base.errors import UnsupportedModel, did_you_mean

FAMILIES: tuple[ArchSpec, ...] = (
    codegen.SPEC, codegen2.SPEC, gptj.SPEC, gpt_bigcode.SPEC, santacoder.SPEC, gpt_neox.SPEC,
    starcoder2.SPEC, stablelm.SPEC, llama.SPEC, qwen2.SPEC, phi.SPEC,
)  # fmt: skip


def find(config: HfConfig) -> ArchSpec:
    """Return the family of a config; raise UnsupportedModel, with similar names, if there is none."""
    for name in config.architectures:
        for spec in FAMILIES:
            if spec.architecture == name and spec.meant(config):
                return spec
    named = ", ".join(config.architectures) or "no architecture"
    raise UnsupportedModel(
        f"{config.where}: {named} is not a family that can be converted",
        hint=did_you_mean(
            next(iter(config.architectures), ""), sorted({f.architecture for f in FAMILIES})
        ),
    )
