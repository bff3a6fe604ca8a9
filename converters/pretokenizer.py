"""Which of llama.cpp's pre-tokenizers cuts text as a tokenizer.json does. Found by structure, never guessed.

Before BPE, text is cut into words by a few steps: regular expressions, digits one by one, and GPT-2's own
expression inside `ByteLevel`. llama.cpp has the same cuts built in, under the names of models. A tokenizer
whose steps are not in the table below is refused: a wrong cut gives other token ids, silently.

Source: llama.cpp `src/llama-vocab.cpp` (`llm_tokenizer_bpe`), the regular expressions of each type.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Step: TypeAlias = "tuple[Any, ...]"

_GPT2 = ("ByteLevel", "with GPT-2's regex")
_BYTES = ("ByteLevel", "without regex")
_DIGITS = ("Digits", "one by one")

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# steps → llama.cpp's names for them; the first is written unless a family prefers another of the row
KNOWN: dict[tuple[Step, ...], tuple[str, ...]] = {
    (_GPT2,): ("gpt-2", "phi-2"),
    (_DIGITS, _GPT2): ("starcoder", "refact", "smollm", "codeshell"),
    (("Split", _QWEN2, "Isolated"), _BYTES): ("qwen2", "stablelm2"),
    (("Split", _LLAMA3, "Isolated"), _BYTES): ("llama-bpe",),
}


def recognise(tokenizer: dict[str, Any], preferred: str = "") -> tuple[str, str]:
    """llama.cpp's name for a tokenizer.json's pre-tokenizer.

    Args:
        tokenizer: the parsed file.
        preferred: the name to write where llama.cpp has several for the same cut.

    Returns:
        The name and "", or "" and why there is none.
    """
    steps = tuple(_steps(tokenizer.get("pre_tokenizer")))
    names = KNOWN.get(steps)
    if names is None:
        shown = " → ".join(" ".join(str(part) for part in step) for step in steps) or "none"
        return "", f"its pre-tokenizer ({shown}) is none that llama.cpp has"
    return (preferred if preferred in names else names[0]), ""


def _steps(node: Any) -> list[Step]:
    """The steps of a pre-tokenizer, sequences flattened, with all that changes where they cut."""
    if not isinstance(node, dict):
        return []
    kind = node.get("type")
    if kind == "Sequence":
        parts = node.get("pretokenizers")
        return [s for p in parts for s in _steps(p)] if isinstance(parts, list) else [(kind,)]
    if kind == "ByteLevel":
        if node.get("add_prefix_space"):
            return [("ByteLevel", "that adds a space")]
        return [_GPT2 if node.get("use_regex", True) else _BYTES]
    if kind == "Digits":
        return [_DIGITS if node.get("individual_digits") else ("Digits", "in runs")]
    if kind == "Split":
        pattern = node.get("pattern")
        text = next(iter(pattern.values()), None) if isinstance(pattern, dict) else None
        inverted = ("inverted",) if node.get("invert") else ()
        return [("Split", str(text), str(node.get("behavior")), *inverted)]
    return [(str(kind),)]
