"""Plain tokens that llama.cpp would take for signs because of their texts. Knows no file.

llama.cpp makes a token of these texts a sign whatever type the file gives it, so that a text which merely
holds the letters becomes that one token: HTML's "</s>" under Qwen2's vocabulary. Where words never reach
such a token by merging, its row is written under another text, and every id stays the original's.

Source: llama.cpp `src/llama-vocab.cpp`, `llama_vocab::impl::load`, "maintain a list of tokens that cause
end-of-generation" and "always render these tokens".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

# Each has a letter with a sign after it, which no cut of `pretokenizer.KNOWN` leaves in one word.
_SIGNS: Final = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
     "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
     "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
     "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]
)  # fmt: skip


def taken_for_signs(vocab: Mapping[str, int], found_first: Collection[str]) -> list[str]:
    """The plain tokens of these texts.

    Args:
        vocab: text → row.
        found_first: the texts of the tokens that are found before anything else; those are no plain ones.
    """
    return sorted(_SIGNS & vocab.keys() - set(found_first))


def other_texts(texts: Collection[str], vocab: Mapping[str, int]) -> dict[int, str]:
    """Row → a text that is like the token's, of no other token and of no meaning to llama.cpp."""
    renamed = {}
    for text in texts:
        other = f"[{text}]"
        while other in vocab:
            other = f"[{other}]"
        renamed[vocab[text]] = other
    return renamed
