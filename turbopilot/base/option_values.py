"""Parsers and checks for option values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final, TypeVar

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.base.sizes import parse_size

Choice = TypeVar("Choice", bound=str)
ALL_LAYERS: Final = 999
"""Number of layers that means all of them; llama.cpp limits it."""


def parse_size_or_zero(option: str, text: str) -> int:
    """Return a size in bytes, or 0 for "0"."""
    return 0 if text == "0" else parse_size(option, text)


def number_or_auto(
    option: str, text: str, least: float | None = None, most: float | None = None
) -> int | None:
    """Return a whole number within limits, or None for "auto"."""
    if text.lower() == "auto":
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise InvalidInput(
            f"{option} {text[:40]}: not a number", hint="give a whole number, or auto"
        )
    check_limits(option, number := int(text), least, most)
    return number


def parse_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the words of texts that may be lists with commas."""
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def layers_or_all(option: str, text: str) -> int | None:
    """Return a number of layers, ALL_LAYERS for "all", or None for "auto"."""
    return ALL_LAYERS if text.lower() == "all" else number_or_auto(option, text, least=0)


def check_limits(option: str, number: float, least: float | None, most: float | None) -> None:
    """Raise InvalidInput if a number is not within limits."""
    if least is not None and number < least:
        limit = "must not be negative" if least == 0 else f"must be at least {least:g}"
        raise InvalidInput(f"{option} {number}: {limit}", hint=f"give {least:g} or more")
    if most is not None and number > most:
        raise InvalidInput(
            f"{option} {number}: must be at most {most:g}", hint=f"give {most:g} or less"
        )


def one_of(option: str, text: str, choices: Collection[Choice]) -> Choice:
    """Return the choice that equals `text`, ignoring case; choices are in lower case."""
    for choice in choices:
        if choice == text.lower():
            return choice
    raise InvalidInput(f"{option} {text}: no such choice", hint=did_you_mean(text, choices))
