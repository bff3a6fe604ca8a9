"""Plain tokens that llama.cpp treats as special because of their text.

llama.cpp makes a token with one of these texts a control token, regardless of its type in the file: with Qwen2's
vocabulary, HTML's "</s>" would become one token. If merging never forms such a token, its row gets another text.

Source: llama.cpp `src/llama-vocab.cpp`, `llama_vocab::impl::load`, "maintain a list of tokens that cause
end-of-generation" and "always render these tokens".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

# The character for each byte in byte-level BPE: GPT-2's table.
_PRINTABLE: Final = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS: Final = [b for b in range(256) if b not in _PRINTABLE]
BYTE_LETTERS: Final = "".join(
    chr(b if b in _PRINTABLE else 256 + _OTHERS.index(b)) for b in range(256)
)
_BYTE_OF: Final = {letter: b for b, letter in enumerate(BYTE_LETTERS)}

# Each has a letter followed by punctuation. Every cut in `pretokenizer.KNOWN` splits there, so merging never forms it.
_SIGNS: Final = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
     "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
     "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
     "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]
)  # fmt: skip


def taken_for_signs(vocab: Mapping[str, int], found_first: Collection[str]) -> list[str]:
    """Return the tokens with these texts, except those in `found_first`, the added tokens."""
    return sorted(_SIGNS & vocab.keys() - set(found_first))


def other_texts(texts: Collection[str], vocab: Mapping[str, int]) -> dict[int, str]:
    """Return row → a similar text that no token has and that llama.cpp does not treat as special."""
    renamed = {}
    for text in texts:
        other = f"[{text}]"
        while other in vocab:
            other = f"[{other}]"
        renamed[vocab[text]] = other
    return renamed


def token_bytes(token: str) -> bytes | None:
    """Return the bytes of a byte-level BPE token; None if it contains other characters."""
    try:
        return bytes(_BYTE_OF[letter] for letter in token)
    except KeyError:
        return None


def joining(tokens: Iterable[str], blanks: str) -> list[str]:
    """Return byte-level BPE tokens that join one of the characters in `blanks` with adjacent text.

    Incomplete UTF-8 of such a character counts too, except its last byte alone: DeepSeek-Coder has a token that joins
    the last byte of "É" or a thin space with an "s".
    """
    if not blanks:
        return []
    whole = {blank.encode() for blank in blanks}
    heads = {w[:n] for w in whole for n in range(1, len(w))}
    tails = {w[n:] for w in whole for n in range(1, len(w) - 1)}

    def one_of(parts: Iterable[bytes]) -> bytes:
        return b"(?:%s)" % b"|".join(map(re.escape, sorted(parts, key=len, reverse=True)))

    alone = re.compile(
        one_of(tails) + b"?" + one_of(whole) + b"*" + one_of(heads) + b"?", re.DOTALL
    )
    joined = re.compile(
        b"%s|.%s$|^%s(?![\x80-\xbf])" % (one_of(whole), one_of(heads), one_of(tails)), re.DOTALL
    )
    known = ((token, token_bytes(token)) for token in tokens)
    return [t for t, raw in known if raw and joined.search(raw) and not alone.fullmatch(raw)]
