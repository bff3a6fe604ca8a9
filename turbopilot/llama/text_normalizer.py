"""What a tokenizer does to text that llama.cpp leaves to its caller. A leaf: imports nothing of ours.

The converter writes it into keys of our own; whoever hands text to llama.cpp applies it first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

NORMALIZER_KEY = "turbopilot.tokenizer.normalizer"  # "NFC", or not there
SPACE_PREFIX_KEY = "turbopilot.tokenizer.space_prefix"  # "always", "first", "every", or not there


def text_normalizer(metadata: Mapping[str, Any]) -> Callable[[str], str]:
    """What to do to a text before llama.cpp cuts it, from a GGUF's metadata.

    >>> text_normalizer({NORMALIZER_KEY: "NFC"})("cafe\u0301") == "caf\u00e9"
    True
    >>> text_normalizer({SPACE_PREFIX_KEY: "always"})("  x")
    ' x'
    """
    composed = metadata.get(NORMALIZER_KEY) == "NFC"
    # tokenizers' Metaspace puts no space where there is one; llama.cpp always does, to any text but none.
    one_is_enough = metadata.get(SPACE_PREFIX_KEY) in ("always", "first")

    def normalized(text: str) -> str:
        if composed:
            text = unicodedata.normalize("NFC", text)
        return text[1:] if one_is_enough and text.startswith(" ") and len(text) > 1 else text

    return normalized
