"""Models of 2021 to mid-2023: those of the original TurboPilot, GPT-J and CodeGen2."""

from __future__ import annotations

from functools import partial
from typing import Final

from turbopilot.catalog.model import KnownModel, OldBin
from turbopilot.llama.geometry import Geometry

_BSD: Final = "BSD-3-Clause"
_APACHE: Final = "Apache-2.0"
_OPENRAIL: Final = "BigCode OpenRAIL-M"
# Languages of the BigQuery data set, from CodeGen's model card.
_MULTI: Final = ("C", "C++", "Go", "Java", "JavaScript", "Python")
_CODEGEN2: Final = (
    "C", "C++", "C#", "Dart", "Go", "Java", "JavaScript", "Kotlin", "Lua", "PHP", "Python", "Ruby", "Rust",
    "Scala", "Shell", "SQL", "Swift", "TypeScript", "Vue",
)  # fmt: skip
# Common languages among the 86 of The Stack v1.2 that StarCoder was trained on; all newer families support them too.
COMMON_LANGUAGES: Final = (
    "C", "C++", "C#", "CSS", "Go", "Haskell", "HTML", "Java", "JavaScript", "Julia", "Kotlin", "Lua", "PHP",
    "Python", "R", "Ruby", "Rust", "Scala", "Shell", "SQL", "TypeScript",
)  # fmt: skip


# Jinja chat templates for models whose files have none.
# Source: the prompt in WizardLM's src/inference_wizardcoder.py. Earlier messages are written in the same form.
_WIZARDCODER: Final = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% else %}Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.{% endif %}{{ '\n\n' }}"
    "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n### Response:"
    "{% elif m.role == 'assistant' %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}"
)

# Source: the model card of stabilityai/stablecode-instruct-alpha-3b. A system message precedes the first instruction.
_STABLECODE_INSTRUCT: Final = (
    "{% for m in messages %}{% if m.role == 'system' %}###Instruction\n{{ m.content }}\n"
    "{% elif m.role == 'user' %}"
    "{% if not (loop.previtem is defined and loop.previtem.role == 'system') %}###Instruction\n{% endif %}"
    "{{ m.content }}###Response\n"
    "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
)


def _gptj(layers: int, width: int, heads: int, vocab: int = 51200) -> Geometry:
    """Return the geometry of a GPT-J or CodeGen model."""
    return Geometry(layers, width, heads, kv_heads=heads, ffn=4 * width, vocab=vocab)


def _bigcode(layers: int, width: int, heads: int, vocab: int, positions: int) -> Geometry:
    """Return the geometry of SantaCoder or StarCoder: one KV head, learned positions, a tied output head."""
    return Geometry(
        layers, width, heads, kv_heads=1, ffn=4 * width, vocab=vocab, tied=True, fused=True, positions=positions,
    )  # fmt: skip


_CODEGEN_BINS: Final = {
    "350M": "codegen-350M-multi-ggml-4bit-quant.bin",
    "2B": "codegen-2B-multi-ggml-4bit-quant_q4_0.bin",
    "6B": "codegen-6B-multi-ggml-4bit-quant.bin",
}


def _codegen(
    size: str, parameters: int, geometry: Geometry, suits: str
) -> tuple[KnownModel, KnownModel]:
    """Return both variants of one size: Python only, and six languages."""
    model = partial(
        KnownModel, family="CodeGen", architecture="CodeGenForCausalLM", parameters=parameters, geometry=geometry,
        context=2048, licence=_BSD,
    )  # fmt: skip
    old = _CODEGEN_BINS.get(size)
    mono = OldBin(f"Guglielmo/CodeGen-{size}-mono-ggml-quant", "ggml-model-quant.bin", "codegen")
    multi = OldBin(f"ravenscroftj/CodeGen-{size}-multi-ggml-quant", old or "", "codegen")
    return (
        model(
            alias=f"codegen-{size}-mono", repository=f"Salesforce/codegen-{size}-mono", languages=("Python",),
            suits=f"Python only, with better results; {suits}", old_bin=mono if old else None,
        ),
        model(
            alias=f"codegen-{size}-multi", repository=f"Salesforce/codegen-{size}-multi", languages=_MULTI,
            suits=f"six languages; {suits}", old_bin=multi if old else None,
        ),
    )  # fmt: skip


_CODEGENS: Final = (
    *_codegen("350M", 356_712_448, _gptj(20, 1024, 16), "for any machine, fast without a GPU"),
    *_codegen("2B", 2_779_356_160, _gptj(32, 2560, 32), "for a laptop with 8 GB"),
    *_codegen("6B", 7_064_213_504, _gptj(33, 4096, 16), "for a GPU, or 8 GB of memory (slow)"),
    *_codegen(
        "16B", 16_032_155_648, _gptj(34, 6144, 24), "for a GPU with 16 GB, or 16 GB of memory (very slow)"
    ),
)  # fmt: skip

_codegen2 = partial(
    KnownModel, family="CodeGen2", architecture="CodeGenForCausalLM", context=2048, licence=_APACHE,
    languages=_CODEGEN2, breadth="19 languages",
)  # fmt: skip
_LIKE_CODEGEN: Final = (
    _codegen2(
        alias="codegen2-1B", repository="Salesforce/codegen2-1B_P", parameters=1_015_306_240,
        geometry=_gptj(16, 2048, 16), suits="for any machine; more languages than CodeGen",
    ),
    _codegen2(
        alias="codegen2-3.7B", repository="Salesforce/codegen2-3_7B_P", parameters=3_641_174_016,
        geometry=_gptj(16, 4096, 16), suits="for a laptop with 8 GB; more languages than CodeGen",
    ),
    KnownModel(
        alias="gpt-j-6b", family="GPT-J", repository="EleutherAI/gpt-j-6b", architecture="GPTJForCausalLM",
        parameters=6_050_882_784, geometry=_gptj(28, 4096, 16, vocab=50400), context=2048, licence=_APACHE,
        breadth="English, some code", suits="better at text than at code; listed for existing users",
    ),
)  # fmt: skip

_STAR: Final = _bigcode(40, 6144, 48, vocab=49152, positions=8192)

_BIGCODE: Final = (
    KnownModel(
        alias="santacoder", family="StarCoder", repository="bigcode/santacoder",
        architecture="GPT2LMHeadCustomModel", parameters=1_124_886_528,
        geometry=_bigcode(24, 2048, 16, vocab=49280, positions=2048), context=2048, licence=_OPENRAIL, fim="santacoder",
        languages=("Java", "JavaScript", "Python"), suits="for any machine; the smallest old model with infilling",
        old_bin=OldBin("mike-ravkine/gpt_bigcode-santacoder-GGML", "santacoder-q4_0.bin", "starcoder"),
    ),
    KnownModel(
        alias="starcoder", family="StarCoder", repository="bigcode/starcoder", architecture="GPTBigCodeForCausalLM",
        parameters=15_517_456_384, geometry=_STAR, context=8192, licence=_OPENRAIL, fim="starcoder", gated=True,
        languages=COMMON_LANGUAGES, breadth="86 languages",
        suits="for a GPU with 12 GB or more, or 16 GB of memory (slow)",
        old_bin=OldBin("NeoDim/starcoder-GGML", "starcoder-ggml-q4_0.bin", "starcoder"),
    ),
    KnownModel(
        alias="starcoderplus", family="StarCoder", repository="bigcode/starcoderplus",
        architecture="GPTBigCodeForCausalLM", parameters=15_517_456_384, geometry=_STAR, context=8192,
        licence=_OPENRAIL, fim="starcoder", gated=True, languages=COMMON_LANGUAGES, breadth="English, 86 languages",
        suits="for code mixed with English text; same hardware as StarCoder",
        old_bin=OldBin("TheBloke/starcoderplus-GGML", "starcoderplus.ggmlv3.q4_0.bin", "starcoder"),
    ),
    KnownModel(
        alias="wizardcoder-15b", family="StarCoder", repository="WizardLMTeam/WizardCoder-15B-V1.0",
        architecture="GPTBigCodeForCausalLM", parameters=15_517_462_528,
        geometry=_bigcode(40, 6144, 48, vocab=49153, positions=8192), context=8192, licence=_OPENRAIL, fim="starcoder",
        languages=COMMON_LANGUAGES, breadth="86 languages",
        suits="for instructions written as comments; same hardware as StarCoder",
        old_bin=OldBin("TheBloke/WizardCoder-15B-1.0-GGML", "WizardCoder-15B-1.0.ggmlv3.q4_0.bin", "wizardcoder"),
        chat_template=_WIZARDCODER,
    ),
)  # fmt: skip

_STABLECODE: Final = KnownModel(
    alias="stablecode-instruct-alpha-3b", family="StableCode", repository="stabilityai/stablecode-instruct-alpha-3b",
    architecture="GPTNeoXForCausalLM", parameters=2_769_310_720,
    geometry=Geometry(32, 2560, 32, kv_heads=32, ffn=10240, vocab=49152, fused=True), context=4096,
    licence="StableCode Research License", gated=True, languages=("C", "C++", "Go", "Java", "JavaScript", "Python"),
    suits="for a laptop with 8 GB; research only; stable-code-3b is its successor",
    old_bin=OldBin(
        "TheBloke/stablecode-instruct-alpha-3b-GGML", "stablecode-instruct-alpha-3b.ggmlv1.q4_0.bin", "stablecode"
    ),
    chat_template=_STABLECODE_INSTRUCT,
)  # fmt: skip

ORIGINAL_MODELS: Final = (*_CODEGENS, *_LIKE_CODEGEN, *_BIGCODE, _STABLECODE)
