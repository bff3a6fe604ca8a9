"""The types that llama.cpp can keep keys and values in."""

from __future__ import annotations

from typing import Final

from turbopilot.base.errors import InvalidInput, did_you_mean

# Widest first. Source: kv_cache_types in common/arg.cpp.
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def find_cache_type(name: str, option: str = "--cache-type") -> str:
    """Return the one of CACHE_TYPES that has this name, in any case.

    Raises:
        InvalidInput: there is no such type; the hint offers near names.
    """
    if (found := name.lower()) in CACHE_TYPES:
        return found
    raise InvalidInput(f"{option} {name}: no such type", hint=did_you_mean(name, CACHE_TYPES))
