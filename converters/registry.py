"""Registry of the supported model families. To add a family, add a file in `families/` and a line here."""

from __future__ import annotations

from converters.families import (
    codegen,
    codegen2,
    deepseek_v2,
    gemma,
    gpt_bigcode,
    gpt_neox,
    gptj,
    granite,
    llama,
    mistral,
    mixtral,
    phi,
    qwen2,
    qwen3,
    qwen3_moe,
    refact,
    santacoder,
    stablelm,
    starcoder2,
)
from converters.hfconfig import HfConfig
from converters.spec import ArchSpec
from turbopilot.base.errors import UnsupportedModel, did_you_mean
from turbopilot.base.quoting import shortened

FAMILIES: tuple[ArchSpec, ...] = (
    codegen.SPEC, codegen2.SPEC, gptj.SPEC, gpt_bigcode.SPEC, santacoder.SPEC, gpt_neox.SPEC,
    starcoder2.SPEC, stablelm.SPEC, llama.SPEC, qwen2.SPEC, phi.SPEC, mistral.SPEC, gemma.SPEC, granite.SPEC,
    refact.SPEC, qwen3.SPEC, qwen3_moe.SPEC, mixtral.SPEC, deepseek_v2.SPEC,
)  # fmt: skip


def find(config: HfConfig) -> ArchSpec:
    """Return the family that matches a config; raise UnsupportedModel, which suggests similar names, if none does."""
    for name in config.architectures:
        for spec in FAMILIES:
            if spec.architecture == name and spec.meant(config):
                return spec
    named = shortened(", ".join(config.architectures)) or "none"
    if not config.architectures and config.values.get("architectures") is not None:
        named = "none: the field architectures is not a list of names"
    first = shortened(next(iter(config.architectures), ""))
    raise UnsupportedModel(
        f"{config.where}: unsupported architecture: {named}",
        hint=did_you_mean(first, sorted({f.architecture for f in FAMILIES})),
    )
