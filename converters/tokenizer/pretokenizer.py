"""Lookup of llama.cpp's pre-tokenizer for a tokenizer.json, by its structure.

Before byte-level BPE, text is split into words ("cut") by regular expressions, by splitting off each digit, and by
GPT-2's expression inside `ByteLevel`. llama.cpp has such cuts built in, under the names of models. `KNOWN` contains
the cuts of published code models that llama.cpp reproduces exactly; others are tried (`trial`), since a wrong cut
silently gives different ids.

Of the normalizers, llama.cpp can add a space before text and replace spaces by "▁". NFC is written as a metadata key
of this project and applied by its programs; all others are refused.

Source: llama.cpp `src/llama-vocab.cpp`, `llm_tokenizer_bpe` (the expressions) and `llama_vocab::impl::load`
(the names and `ignore_merges`); tokenizer.json of the repositories that the table names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from converters.tokenizer.metadata import SPACE
from turbopilot.base.quoting import shortened

Step: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True, slots=True)
class Cut:
    """A way to split text into words, with llama.cpp's names for it.

    The first name is written unless a family prefers another.
    """

    names: tuple[str, ...]
    ignore_merges: bool = False  # a word that is in the vocabulary is one token, without merging
    blanks: str = ""  # whitespace at which llama.cpp splits differently; tokens must not join it


_GPT2: Final = ("ByteLevel", "with GPT-2's regex")
_BYTES: Final = ("ByteLevel", "without regex")
_DIGITS: Final = ("Digits", "one by one")


def _split(regex: str) -> Step:
    return ("Split", regex, "Isolated")


# Line ends are escaped here, as "\n"; some files contain the characters themselves.
_GPT2_REGEX: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LINES: Final = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2: Final = _WORD + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _LINES
_LLAMA3: Final = _WORD + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _LINES
_SEED: Final = _WORD + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _LINES
_DEEPSEEK3: Final = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*""" + _LINES
)
_CJK: Final = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CJK3: Final = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
# Whitespace in _CJK's range (from U+0800 on), which llama.cpp replaces by vertical tabs before matching
# (unicode.cpp, "using 0x0B as fallback")
_CJK_BLANKS: Final = "\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
# Expressions that match every character, so that behavior "Removed" with `invert` removes nothing.
_TOTAL: Final = {_GPT2_REGEX, _QWEN2, _LLAMA3, _SEED}

KNOWN: Final[dict[tuple[Step, ...], tuple[Cut, ...]]] = {
    # gpt2, codegen, gpt-j, phi-1 to phi-2, JetBrains/Mellum-4b-base; gpt-neox-20b and pythia after NFC
    (_GPT2,): (Cut(("gpt-2", "phi-2")),),
    (_split(_GPT2_REGEX), _BYTES): (Cut(("gpt-2", "phi-2")),),
    # bigcode/starcoder, starcoder2, granite-*-code, granite-3.*, SmolLM, SmolLM2, Refact-1_6B-fim, codeshell
    (_DIGITS, _GPT2): (Cut(("starcoder", "refact", "smollm", "codeshell")),),
    # Qwen/Qwen2-7B, Qwen2.5-Coder, Qwen3 (after NFC); stabilityai/stablelm-2
    (_split(_QWEN2), _BYTES): (Cut(("qwen2", "stablelm2")),),
    # meta-llama/Meta-Llama-3-8B; without ignore_merges cl100k's, as in databricks/dbrx-base
    (_split(_LLAMA3), _BYTES): (
        Cut(("llama-bpe",), ignore_merges=True),
        Cut(("dbrx", "smaug-bpe")),
    ),
    # deepseek-ai/deepseek-coder-6.7b-base
    (
        _split(r"[\r\n]"), _split(r"\s?\p{L}+"), _split(r"\s?\p{P}+"), _split(_CJK), _DIGITS, _BYTES,
    ): (Cut(("deepseek-coder",), blanks=_CJK_BLANKS),),
    # deepseek-ai/DeepSeek-V3
    (_split(r"\p{N}{1,3}"), _split(_CJK3), _split(_DEEPSEEK3), _BYTES): (Cut(("deepseek-v3",)),),
    # ByteDance-Seed/Seed-Coder-8B-Base
    (_split(_SEED), _BYTES): (Cut(("seed-coder",)),),
}  # fmt: skip

# One name for each of llama.cpp's cuts for byte-level BPE, the most likely first. whitespace, gemma4 and
# sarvam-moe are not among them: they work on characters, not bytes.
CANDIDATES: Final = (
    Cut(("qwen2",)), Cut(("llama-bpe",), True), Cut(("dbrx",)), Cut(("gpt-2",)), Cut(("starcoder",)),
    Cut(("deepseek-coder",)), Cut(("deepseek-llm",)), Cut(("deepseek-v3",)), Cut(("gpt-4o",)),
    Cut(("tekken",), True), Cut(("seed-coder",)), Cut(("qwen35",)), Cut(("bailingmoe",)), Cut(("falcon",)),
    Cut(("minicpm5",), True), Cut(("youtu",), True), Cut(("tiny_aya",)), Cut(("afmoe",)), Cut(("kimi-k2",)),
    Cut(("granite-embed-multi-97m",), True), Cut(("exaone-moe",)), Cut(("ufakzeka",)), Cut(("laguna",)),
    Cut(("spark2_5",)), Cut(("jais-2",)), Cut(("chameleon",)), Cut(("superbpe",)), Cut(("poro-chat",)),
    Cut(("viking",)), Cut(("default",)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recognised:
    """Result of `recognise`."""

    pre: str = ""  # llama.cpp's name, "" if unknown
    candidates: tuple[str, ...] = ()  # names to try, the most likely first
    blanks: str = ""  # see `Cut`
    doubt: str = ""  # why the structure alone does not prove a name right
    problem: str = ""  # why no name can be right


def recognise(pre_tokenizer: Any, *, ignore_merges: bool, preferred: str = "") -> Recognised:
    """Return llama.cpp's name for the `pre_tokenizer` of a byte-level BPE's tokenizer.json.

    `ignore_merges` is the model's setting; `preferred` is the name to use if llama.cpp has several for the cut.
    """
    steps = tuple(_step(s) for s in flatten(pre_tokenizer, "pretokenizers"))
    shown = " → ".join(" ".join(step) for step in steps) or "none"
    unknown = f"its pre-tokenizer ({shown}) is not one that llama.cpp has"
    if not any(step[0] == "ByteLevel" for step in steps):
        return Recognised(problem=unknown)
    if ("ByteLevel", "that adds a space") in steps:
        return Recognised(
            problem="its ByteLevel adds a space before text, but llama.cpp's does not"
        )
    ranked = sorted(
        CANDIDATES, key=lambda c: (preferred not in c.names, c.ignore_merges != ignore_merges)
    )
    names = tuple(c.names[0] for c in ranked)
    cuts = KNOWN.get(steps)
    if cuts is None:
        return Recognised(candidates=names, doubt=unknown)
    for cut in cuts:
        if cut.ignore_merges == ignore_merges:
            return Recognised(
                preferred if preferred in cut.names else cut.names[0], blanks=cut.blanks
            )
    alike = tuple(n for n in names if n in {name for cut in cuts for name in cut.names})
    rule = "takes whole words before merging (" if ignore_merges else "always merges (no "
    doubt = f"its BPE {rule}ignore_merges), but llama.cpp does not with this pre-tokenizer"
    return Recognised(candidates=alike, doubt=doubt)


def _step(node: dict[str, Any]) -> Step:
    """Return a step with all options that affect how it splits text."""
    kind = str(node.get("type"))
    if kind == "ByteLevel":
        if node.get("add_prefix_space"):
            return ("ByteLevel", "that adds a space")
        return _GPT2 if node.get("use_regex", True) else _BYTES
    if kind == "Digits":
        return _DIGITS if node.get("individual_digits") else ("Digits", "in runs")
    if kind != "Split":
        settings = ", ".join(f"{k} {v}" for k, v in sorted(node.items()) if k != "type")
        return (kind, settings) if settings else (kind,)
    pattern = node.get("pattern")
    name, value = next(iter(pattern.items()), ("", "")) if isinstance(pattern, dict) else ("", "")
    text = str(value).replace("\r", r"\r").replace("\n", r"\n") if name == "Regex" else repr(value)
    behavior, inverted = str(node.get("behavior")), bool(node.get("invert"))
    if text in _TOTAL and behavior == "Removed" and inverted:
        return _split(text)
    return ("Split", text, behavior, *(["inverted"] if inverted else []))


@dataclass(slots=True)
class Normalization:
    """Changes of the text before it is split into words."""

    nfc: bool = False
    spaces: bool = False  # spaces are replaced by "▁"
    prepend: bool = False  # a space is added before the text
    problem: str = ""  # a change that GGUF cannot represent


def read_normalizer(node: Any) -> Normalization:
    """Read tokenizer.json's `normalizer`."""
    found = Normalization()
    for step in flatten(node, "normalizers"):
        kind = step.get("type")
        if kind == "NFC":
            found.nfc = True
        elif kind == "Prepend" and step.get("prepend") == SPACE and not found.prepend:
            found.prepend = True
        elif (
            kind == "Replace"
            and step.get("pattern") == {"String": " "}
            and step.get("content") == SPACE
        ):
            found.spaces = True
        else:
            found.problem = f"it normalises text ({shortened(str(kind))})"
    if found.prepend and not found.spaces:
        found.problem = f"it adds {SPACE!r} before text but does not replace spaces by it"
    return found


def flatten(node: Any, parts: str) -> list[dict[str, Any]]:
    """Return a flat list of the steps in a `Sequence` and nested ones, or of one step; `parts` names their field."""
    if node is None:
        return []
    if not isinstance(node, dict):
        return [{"type": repr(node)[:80]}]
    if node.get("type") != "Sequence":
        return [node]
    inner = node.get(parts)
    if not isinstance(inner, list):
        return [{"type": f"Sequence without {parts}"}]
    return [step for part in inner for step in flatten(part, parts)]
