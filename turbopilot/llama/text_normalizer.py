"""Text normalization that llama.cpp's tokenizers do not do, configured by metadata from the converter."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

NORMALIZER_KEY = "turbopilot.tokenizer.normalizer"  # "NFC", or absent
SPACE_PREFIX_KEY = "turbopilot.tokenizer.space_prefix"  # "always", "first", or absent


def text_normalizer(metadata: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a function that normalizes a text before llama.cpp tokenizes it.

    >>> text_normalizer({NORMALIZER_KEY: "NFC"})("cafe\u0301") == "caf\u00e9"
    True
    >>> text_normalizer({SPACE_PREFIX_KEY: "always"})("  x")
    ' x'
    """
    composed = metadata.get(NORMALIZER_KEY) == "NFC"
    # The Metaspace of tokenizers adds no space before a space; llama.cpp adds one to any nonempty text.
    one_is_enough = metadata.get(SPACE_PREFIX_KEY) in ("always", "first")

    def normalize(text: str) -> str:
        if composed:
            text = unicodedata.normalize("NFC", text)
        return text[1:] if one_is_enough and text.startswith(" ") and len(text) > 1 else text

    return normalize
