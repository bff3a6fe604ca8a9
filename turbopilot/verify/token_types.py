"""What sort of text a token is. Pure."""

from __future__ import annotations

import re
from typing import Final

TYPES: Final = ("whitespace", "words", "numbers", "punctuation", "other")
"""All answers of `token_type`."""

_WORD: Final = re.compile(r"\s*[^\W\d]\w*\s*")
_NUMBER: Final = re.compile(r"\s*\d[\w.]*\s*")
_PUNCTUATION: Final = re.compile(r"\s*[^\w\s\ufffd](?:[^\w\ufffd]*)")


def token_type(text: str) -> str:
    """One of `TYPES`; "other" is what mixes them, marks such as the middle of a hole, and parts of a character."""
    if text.isspace():
        return "whitespace"
    for name, pattern in (("words", _WORD), ("numbers", _NUMBER), ("punctuation", _PUNCTUATION)):
        if pattern.fullmatch(text):
            return name
    return "other"
