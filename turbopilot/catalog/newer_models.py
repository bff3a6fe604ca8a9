"""Code models since mid-2023; nearly all of them support infilling."""

from __future__ import annotations

from functools import partial
from typing import Final

from turbopilot.catalog.model import KnownModel
from turbopilot.catalog.original_models import COMMON_LANGUAGES
from turbopilot.llama.geometry import Geometry

_APACHE: Final = "Apache-2.0"
_STARCODER2: Final = (
    "C", "C++", "C#", "Go", "Java", "JavaScript", "Kotlin", "Lua", "PHP", "Python", "R", "Ruby", "Rust", "Shell",
    "SQL", "Swift", "TypeScript",
)  # fmt: skip
_STABLE_CODE: Final = (
    "C", "C++", "CSS", "Go", "HTML", "Java", "JavaScript", "PHP", "Python", "R", "Ruby", "Rust", "Shell", "SQL",
    "TypeScript",
)  # fmt: skip
_CODELLAMA: Final = ("C#", "C++", "Java", "JavaScript", "PHP", "Python", "Shell", "TypeScript")

_gated = partial(Geometry, gated=True)  # the feed-forward of Llama, used by most of these models

_starcoder2 = partial(
    KnownModel, family="StarCoder2", architecture="Starcoder2ForCausalLM", context=4096, fim="starcoder2",
    licence="BigCode OpenRAIL-M", languages=_STARCODER2,
)  # fmt: skip
_STARCODER2S: Final = (
    _starcoder2(
        alias="starcoder2-3b", repository="bigcode/starcoder2-3b", parameters=3_030_371_328,
        geometry=Geometry(30, 3072, 24, kv_heads=2, ffn=12288, vocab=49152, tied=True),
        breadth="17 languages", suits="for a laptop with 8 GB",
    ),
    _starcoder2(
        alias="starcoder2-7b", repository="bigcode/starcoder2-7b", parameters=7_173_923_840,
        geometry=Geometry(32, 4608, 36, kv_heads=4, ffn=18432, vocab=49152, tied=True),
        breadth="17 languages", suits="for a GPU with 8 GB, or a fast processor",
    ),
    _starcoder2(
        alias="starcoder2-15b", repository="bigcode/starcoder2-15b", parameters=15_957_889_024,
        geometry=Geometry(40, 6144, 48, kv_heads=4, ffn=24576, vocab=49152),
        breadth="600+ languages", suits="for a GPU with 12 GB or more",
    ),
)  # fmt: skip

_STABLE_CODE_3B: Final = KnownModel(
    alias="stable-code-3b", family="StableCode", repository="stabilityai/stable-code-3b",
    architecture="StableLmForCausalLM", parameters=2_795_443_200,
    geometry=_gated(32, 2560, 32, kv_heads=32, ffn=6912, vocab=50304), context=16384,
    licence="Stability AI's own", fim="starcoder", languages=_STABLE_CODE, breadth="18 languages",
    suits="for a laptop with 8 GB; its context takes much memory",
)  # fmt: skip

_deepseek = partial(
    KnownModel, family="DeepSeek-Coder", architecture="LlamaForCausalLM", context=16384, fim="deepseek",
    licence="DeepSeek License", languages=COMMON_LANGUAGES, breadth="87 languages",
)  # fmt: skip
_DEEPSEEKS: Final = (
    _deepseek(
        alias="deepseek-coder-1.3b", repository="deepseek-ai/deepseek-coder-1.3b-base", parameters=1_346_471_936,
        geometry=_gated(24, 2048, 16, kv_heads=16, ffn=5504, vocab=32256), suits="for any machine, fast without a GPU",
    ),
    _deepseek(
        alias="deepseek-coder-6.7b", repository="deepseek-ai/deepseek-coder-6.7b-base", parameters=6_740_512_768,
        geometry=_gated(32, 4096, 32, kv_heads=32, ffn=11008, vocab=32256),
        suits="for a GPU with 8 GB or more; its context takes much memory",
    ),
    _deepseek(
        alias="deepseek-coder-33b", repository="deepseek-ai/deepseek-coder-33b-base", parameters=33_342_991_360,
        geometry=_gated(62, 7168, 56, kv_heads=8, ffn=19200, vocab=32256), suits="for a GPU with 24 GB or more",
    ),
)  # fmt: skip


def _codellama(name: str, parameters: int, geometry: Geometry, suits: str) -> KnownModel:
    """Return a CodeLlama model; the Python variants and the largest model have no infilling tokens."""
    is_python = name.endswith("-Python")
    return KnownModel(
        alias=f"codellama-{name.lower()}", family="CodeLlama", repository=f"codellama/CodeLlama-{name}-hf",
        architecture="LlamaForCausalLM", parameters=parameters, geometry=geometry, context=16384,
        licence="Llama 2 Community License", suits=f"Python; {suits}" if is_python else suits,
        languages=("Python",) if is_python else _CODELLAMA, fim="codellama" if name in ("7b", "13b") else "",
        gguf_repository=f"TheBloke/CodeLlama-{name.replace('b', 'B', 1)}-GGUF",
    )  # fmt: skip


_llama_7b = partial(_gated, 32, 4096, 32, kv_heads=32, ffn=11008)
_llama_13b = partial(_gated, 40, 5120, 40, kv_heads=40, ffn=13824)
_LLAMA_34B: Final = _gated(48, 8192, 64, kv_heads=8, ffn=22016, vocab=32000)
_FOR_7B: Final = "for a GPU with 8 GB or more; its context takes much memory"
_FOR_13B: Final = "for a GPU with 16 GB or more; its context takes much memory"
_FOR_34B: Final = "for a GPU with 24 GB or more"
_CODELLAMAS: Final = (
    _codellama("7b", 6_738_546_688, _llama_7b(vocab=32016), _FOR_7B),
    _codellama("7b-Python", 6_738_415_616, _llama_7b(vocab=32000), _FOR_7B),
    _codellama("13b", 13_016_028_160, _llama_13b(vocab=32016), _FOR_13B),
    _codellama("13b-Python", 13_015_864_320, _llama_13b(vocab=32000), _FOR_13B),
    _codellama("34b", 33_743_970_304, _LLAMA_34B, _FOR_34B),
    _codellama("34b-Python", 33_743_970_304, _LLAMA_34B, _FOR_34B),
)

_granite = partial(
    KnownModel, family="Granite", architecture="LlamaForCausalLM", licence=_APACHE, fim="starcoder",
    languages=COMMON_LANGUAGES, breadth="116 languages",
)  # fmt: skip
_GRANITES: Final = (
    _granite(
        alias="granite-3b-code", repository="ibm-granite/granite-3b-code-base-2k", parameters=3_482_503_680,
        geometry=_gated(32, 2560, 32, kv_heads=32, ffn=10240, vocab=49152, tied=True), context=2048,
        suits="for a laptop with 8 GB, if a free licence matters",
    ),
    _granite(
        alias="granite-8b-code", repository="ibm-granite/granite-8b-code-base-4k", parameters=8_054_910_976,
        geometry=_gated(36, 4096, 32, kv_heads=8, ffn=14336, vocab=49152, tied=True), context=4096,
        suits="for a GPU with 8 GB, if a free licence matters",
    ),
)  # fmt: skip


def _qwen(
    size: str, parameters: int, geometry: Geometry, suits: str, *, ready: bool = True
) -> KnownModel:
    # The GGUF files that llama.cpp's --fim-qwen-… presets download (common/arg.cpp).
    return KnownModel(
        alias=f"qwen2.5-coder-{size.lower()}", family="Qwen2.5-Coder", repository=f"Qwen/Qwen2.5-Coder-{size}",
        architecture="Qwen2ForCausalLM", parameters=parameters, geometry=geometry, context=32768,
        licence="Qwen Research" if size == "3B" else _APACHE, suits=suits, languages=COMMON_LANGUAGES,
        breadth="92 languages", fim="qwen",
        gguf_repository=f"ggml-org/Qwen2.5-Coder-{size}-Q8_0-GGUF" if ready else "",
    )  # fmt: skip


_qwen_tied = partial(_gated, vocab=151936, tied=True)
_qwen_untied = partial(_gated, vocab=152064)
_QWENS: Final = (
    _qwen("0.5B", 494_032_768, _qwen_tied(24, 896, 14, kv_heads=2, ffn=4864), "the fastest for infilling"),
    _qwen("1.5B", 1_543_714_304, _qwen_tied(28, 1536, 12, kv_heads=2, ffn=8960), "the first to try without a GPU"),
    _qwen("3B", 3_085_938_688, _qwen_tied(36, 2048, 16, kv_heads=2, ffn=11008), "for a fast processor; research only"),
    _qwen("7B", 7_615_616_512, _qwen_untied(28, 3584, 28, kv_heads=4, ffn=18944), "the first to try on an 8 GB GPU"),
    _qwen("14B", 14_770_033_664, _qwen_untied(48, 5120, 40, kv_heads=8, ffn=13824), "for a GPU with 12 GB or more"),
    _qwen(
        "32B", 32_763_876_352, _qwen_untied(64, 5120, 40, kv_heads=8, ffn=27648), "for a GPU with 24 GB",
        ready=False,
    ),
)  # fmt: skip

_smollm2 = partial(
    KnownModel, family="SmolLM2", architecture="LlamaForCausalLM", context=8192, licence=_APACHE,
    breadth="English, some code",
)  # fmt: skip
_SMOLLM2S: Final = (
    _smollm2(
        alias="smollm2-135m", repository="HuggingFaceTB/SmolLM2-135M", parameters=134_515_008,
        geometry=_gated(30, 576, 9, kv_heads=3, ffn=1536, vocab=49152, tied=True),
        suits="for testing; better at text than at code",
    ),
    _smollm2(
        alias="smollm2-360m", repository="HuggingFaceTB/SmolLM2-360M", parameters=361_821_120,
        geometry=_gated(32, 960, 15, kv_heads=5, ffn=2560, vocab=49152, tied=True),
        suits="for testing; better at text than at code",
    ),
    _smollm2(
        alias="smollm2-1.7b", repository="HuggingFaceTB/SmolLM2-1.7B", parameters=1_711_376_384,
        geometry=_gated(24, 2048, 32, kv_heads=32, ffn=8192, vocab=49152, tied=True),
        suits="for comments and prose as well as code",
    ),
)  # fmt: skip

_phi = partial(
    KnownModel, family="Phi", architecture="PhiForCausalLM", context=2048, licence="MIT", languages=("Python",),
)  # fmt: skip
_PHI_1: Final = Geometry(24, 2048, 32, kv_heads=32, ffn=8192, vocab=51200)
_PHIS: Final = (
    _phi(
        alias="phi-1", repository="microsoft/phi-1", parameters=1_418_270_720, geometry=_PHI_1,
        suits="for any machine; writes whole Python functions from a description",
    ),
    _phi(
        alias="phi-1.5", repository="microsoft/phi-1_5", parameters=1_418_270_720, geometry=_PHI_1,
        breadth="English, Python", suits="for any machine; better at text than at code",
    ),
    _phi(
        alias="phi-2", repository="microsoft/phi-2", parameters=2_779_683_840,
        geometry=Geometry(32, 2560, 32, kv_heads=32, ffn=10240, vocab=51200),
        breadth="English, Python", suits="for a laptop with 8 GB",
    ),
)  # fmt: skip

NEWER_MODELS: Final = (
    *_QWENS, *_STARCODER2S, *_DEEPSEEKS, *_CODELLAMAS, *_GRANITES, _STABLE_CODE_3B, *_SMOLLM2S, *_PHIS,
)  # fmt: skip
