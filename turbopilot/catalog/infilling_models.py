"""Models of Mistral AI, ByteDance, JetBrains, Google, IBM and Refact, all trained for infilling."""

from __future__ import annotations

from functools import partial
from typing import Final

from turbopilot.catalog.model import KnownModel
from turbopilot.catalog.original_models import COMMON_LANGUAGES
from turbopilot.llama.geometry import Geometry

_APACHE: Final = "Apache-2.0"
# Languages in which the cards of CodeGemma report results.
_CODEGEMMA: Final = ("C#", "C++", "Go", "Java", "JavaScript", "Kotlin", "Python", "Rust")

_gated = partial(Geometry, gated=True)

_CODESTRAL: Final = KnownModel(
    alias="codestral-22b", family="Codestral", repository="mistralai/Codestral-22B-v0.1",
    architecture="MistralForCausalLM", parameters=22_247_282_688,
    geometry=_gated(56, 6144, 48, kv_heads=8, ffn=16384, vocab=32768), context=32768,
    licence="Mistral AI Non-Production License", gated=True, fim="codestral", languages=COMMON_LANGUAGES,
    breadth="80+ languages", suits="for a GPU with 16 GB or more; not for production",
)  # fmt: skip

_SEED_CODER: Final = KnownModel(
    alias="seed-coder-8b-base", family="Seed-Coder", repository="ByteDance-Seed/Seed-Coder-8B-Base",
    architecture="LlamaForCausalLM", parameters=8_250_462_208,
    geometry=_gated(32, 4096, 32, kv_heads=8, ffn=14336, vocab=155136), context=32768, licence="MIT",
    fim="seed-coder", languages=COMMON_LANGUAGES, breadth="89 languages",
    suits="for a GPU with 8 GB, if a free licence matters",
)  # fmt: skip

_MELLUM: Final = KnownModel(
    alias="mellum-4b-base", family="Mellum", repository="JetBrains/Mellum-4b-base", architecture="LlamaForCausalLM",
    parameters=4_019_248_128, geometry=_gated(30, 3072, 24, kv_heads=24, ffn=8256, vocab=98304), context=8192,
    licence=_APACHE, fim="mellum", languages=COMMON_LANGUAGES, breadth="many languages",
    suits="for completion with other files as context; its context takes much memory",
    gguf_repository="JetBrains/Mellum-4b-base-gguf",
)  # fmt: skip

_codegemma = partial(
    KnownModel, family="CodeGemma", architecture="GemmaForCausalLM", context=8192, licence="Gemma Terms of Use",
    gated=True, fim="codegemma", languages=_CODEGEMMA,
)  # fmt: skip
_codegemma_size = partial(_gated, key_size=256, value_size=256, vocab=256000, tied=True)
_CODEGEMMAS: Final = (
    _codegemma(
        alias="codegemma-2b", repository="google/codegemma-2b", parameters=2_506_172_416,
        geometry=_codegemma_size(18, 2048, 8, kv_heads=1, ffn=16384), suits="for a laptop with 8 GB",
    ),
    _codegemma(
        alias="codegemma-7b", repository="google/codegemma-7b", parameters=8_537_680_896,
        geometry=_codegemma_size(28, 3072, 16, kv_heads=16, ffn=24576),
        suits="for a GPU with 12 GB or more; its context takes much memory",
    ),
)  # fmt: skip

_granite3 = partial(
    KnownModel, family="Granite 3.3", architecture="GraniteForCausalLM", context=131072, licence=_APACHE,
    fim="starcoder", languages=COMMON_LANGUAGES, breadth="text in 12 languages, code",
)  # fmt: skip
_GRANITE3S: Final = (
    _granite3(
        alias="granite-3.3-2b-base", repository="ibm-granite/granite-3.3-2b-base", parameters=2_533_525_504,
        geometry=_gated(40, 2048, 32, kv_heads=8, ffn=8192, vocab=49152, tied=True),
        suits="for long contexts on a laptop with 8 GB",
    ),
    _granite3(
        alias="granite-3.3-8b-base", repository="ibm-granite/granite-3.3-8b-base", parameters=8_170_835_968,
        geometry=_gated(40, 4096, 32, kv_heads=8, ffn=12800, vocab=49152, tied=True),
        suits="for long contexts on a GPU with 8 GB",
    ),
)  # fmt: skip

_REFACT: Final = KnownModel(
    alias="refact-1.6b", family="Refact", repository="smallcloudai/Refact-1_6B-fim",
    architecture="GPTRefactForCausalLM", parameters=1_585_842_176,
    geometry=_gated(32, 2048, 32, kv_heads=1, ffn=5632, vocab=49216, fused=True), context=4096,
    licence="BigScience OpenRAIL-M", fim="refact", languages=COMMON_LANGUAGES, breadth="many languages",
    suits="for any machine; its context takes little memory",
)  # fmt: skip

INFILLING_MODELS: Final = (
    _CODESTRAL, _SEED_CODER, _MELLUM, *_CODEGEMMAS, *_GRANITE3S, _REFACT,
)  # fmt: skip
