"""Conversion of JSON schemas to grammars.

Schemas are checked first, since llama.cpp's converter hangs or crashes on some of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from turbopilot.base.errors import InvalidRequest

_MOST_REPEATS: Final = 400  # the converter writes out each repetition
# The converter's work grows with the square of a schema's size.
_LARGEST_SCHEMA: Final = 1 << 15
_LONGEST_GRAMMAR: Final = 1 << 16
# `_BARE` matches the converter's output outside of quoted text and character classes (`_QUOTED`). Anything else is an
# unescaped string of the schema, and could make llama.cpp loop ("x"{3,2}) or abort (<token>).
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', re.S)
_BARE: Final = re.compile(r"[A-Za-z0-9\s:=|()*+?.-]*")
# The converter's rules for a string's character and a pattern's dot allow characters that JSON strings may not contain.
# The first replacement is llama.cpp's newer rule (common/json-schema-to-grammar.cpp).
_STRICTER: Final = (
    (r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |'),
    (r"dot ::= [^\x0A\x0D]", r'dot ::= [^"\\\x7F\x00-\x1F]'),
)


def json_schema_to_gbnf(schema: Mapping[str, object]) -> str:
    """Return a JSON schema's grammar in GBNF; raise InvalidRequest if the schema is not supported.

    Remote references are never fetched.
    """
    from turbopilot.llama.grammar import json_schema_to_gbnf as convert

    try:
        _check_schema(schema)
        text = json.dumps(dict(schema))
        if len(text) > _LARGEST_SCHEMA:
            raise _schema_refusal(f"it has {len(text)} characters, the limit is {_LARGEST_SCHEMA}")
        grammar = convert(text)
    except InvalidRequest:
        raise
    except RecursionError:
        raise _schema_refusal("it is too large or nested too deeply") from None
    except Exception as e:  # AssertionError, KeyError and others from the converter
        raise _schema_refusal(str(e)[:200] or type(e).__name__) from e
    for theirs, ours in _STRICTER:
        grammar = f"\n{grammar}".replace(f"\n{theirs}", f"\n{ours}")[1:]
    if len(grammar) > _LONGEST_GRAMMAR:
        raise _schema_refusal(
            f"its grammar has {len(grammar)} characters, the limit is {_LONGEST_GRAMMAR}"
        )
    if "\0" in grammar or not _BARE.fullmatch(_QUOTED.sub("", grammar)):
        raise _schema_refusal("a pattern or value contains quotation marks or backslashes")
    return grammar


def _schema_refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be used: {reason}", param="json_schema")


_QUANTIFIER: Final = re.compile(r"\{([^}]*)\}")
# The converter loops forever at an unmatched closing bracket.
_PATTERN: Final = re.compile(r"(?:\\.|\[(?:\\.|[^]\\])*\]|\{[^}]*\}|[^][{}\\])*", re.S)
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")


def _check_schema(node: object) -> None:
    """Raise InvalidRequest if the converter would fetch a reference, hang, or run out of memory."""
    if isinstance(node, list):
        for item in node:
            _check_schema(item)
    elif isinstance(node, dict):
        ref = node.get("$ref", "#")
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise _schema_refusal(f"$ref {ref!r} is not a local reference (#/…)")
        for key, value in node.items():
            counted = key in _COUNTS and isinstance(value, (int, float))
            if counted and not 0 <= value <= _MOST_REPEATS:
                raise _schema_refusal(f"{key} is {value}, not between 0 and {_MOST_REPEATS}")
            if key == "pattern" and isinstance(value, str):
                if not _PATTERN.fullmatch(value):
                    raise _schema_refusal("its pattern has an unmatched bracket or backslash")
                if _too_many(value):
                    raise _schema_refusal(f"its pattern repeats more than {_MOST_REPEATS} times")
            _check_schema(value)


def _too_many(pattern: str) -> bool:
    """Return whether a quantifier such as `{m,n}` exceeds the limit on repetitions."""
    counts = (n for found in _QUANTIFIER.findall(pattern) for n in found.split(","))
    return any(len(n.strip()) > 9 or int(n) > _MOST_REPEATS for n in counts if n.strip().isdigit())
