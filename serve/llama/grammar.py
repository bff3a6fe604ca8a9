"""Follow a JSON schema while generating, through llama.cpp's grammars.

llama.cpp ends the process if it is told of a token that the grammar forbids, so every token is checked first.
"""

from __future__ import annotations

import ctypes
import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from serve.decoder import Logits
from turbopilot.base.errors import InvalidRequest

# One question may take milliseconds: longer, and the grammar is one whose readings grow with the text.
_SLOWEST: Final = 2.0
# Most repetitions of a schema: its converter writes each of them out.
_MOST_REPEATS: Final = 400
# Its work grows with the square of a schema's size.
_LARGEST_SCHEMA: Final = 1 << 15
_LONGEST_GRAMMAR: Final = 1 << 16
# What the converter writes outside of quoted text and character classes. Anything else came out of a string of the
# schema that it did not escape, and could make llama.cpp loop ("x"{3,2}) or end the process (<token>).
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', re.S)
_BARE: Final = re.compile(r"[A-Za-z0-9\s:=|()*+?.-]*")
# The converter's rules for a character of a string and for a pattern's dot let through what no JSON string may hold.
# The first is llama.cpp's own since (common/json-schema-to-grammar.cpp).
_STRICTER: Final = (
    (r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |'),
    (r"dot ::= [^\x0A\x0D]", r'dot ::= [^"\\\x7F\x00-\x1F]'),
)
# As llama_token_data in llama.h.
_TOKEN_DATA: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

TokenIds = npt.NDArray[np.int64]


def make_constraint(
    vocab: Any, grammar: str, *, unwritable: TokenIds | None = None
) -> LlamaConstraint:
    """A grammar at its start.

    Args:
        vocab: llama.cpp's pointer; the model must outlive the constraint.
        grammar: GBNF, with a rule named root.
        unwritable: `unwritable_tokens(vocab)`, where the caller keeps it; else it is found when first needed.

    Raises:
        InvalidRequest: llama.cpp refuses it.
    """
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    if not sampler:
        raise InvalidRequest(
            "the JSON schema cannot be used: llama.cpp refuses its grammar, as if a rule begins with itself",
            param="json_schema",
        )
    return LlamaConstraint(vocab, sampler, unwritable)


def unwritable_tokens(vocab: Any) -> TokenIds:
    """Ids of tokens that no grammar may ask for, though their names are text: special tokens that are no ends."""
    n = int(llama_cpp.llama_vocab_n_tokens(vocab))
    return np.array([t for t in range(n) if _is_unwritable(vocab, t)], dtype=np.int64)


def _is_unwritable(vocab: Any, token: int) -> bool:
    return bool(
        llama_cpp.llama_vocab_is_control(vocab, token)
        and not llama_cpp.llama_vocab_is_eog(vocab, token)
    )


class LlamaConstraint:
    """One sequence's grammar. Made by `make_constraint`; see `serve.decoder.Constraint` for the contract."""

    def __init__(self, vocab: Any, sampler: Any, unwritable: TokenIds | None) -> None:
        self._vocab, self._sampler = vocab, sampler
        self._free = llama_cpp.llama_sampler_free
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._unwritable = unwritable
        self._one = np.zeros(1, dtype=_TOKEN_DATA)
        self._all: npt.NDArray[np.void] | None = None
        self._allowed: int | None = None  # the last token asked for, where it may come next
        self._piece = ctypes.create_string_buffer(1024)

    def allows(self, token: int) -> bool:
        """Whether the token may come next."""
        if token == self._allowed:
            return True
        if not 0 <= token < self._n_vocab or _is_unwritable(self._vocab, token):
            return False
        if self._begins_with_nul(token):
            return False
        self._one[0] = (token, 0.0, 0.0)
        self._apply(self._one)
        allowed = bool(self._one["logit"][0] > -np.inf)
        if allowed:
            self._allowed = token
        return allowed

    def mask(self, logits: Logits) -> Logits:
        """A copy in which every token that may not come next is minus infinity."""
        if self._all is None:
            self._all = np.zeros(self._n_vocab, dtype=_TOKEN_DATA)
            self._all["id"] = np.arange(self._n_vocab)
        if self._unwritable is None:
            self._unwritable = unwritable_tokens(self._vocab)
        self._all["logit"] = logits
        self._apply(self._all)
        out: Logits = self._all["logit"].copy()
        out[self._unwritable] = -np.inf
        return out

    def accept(self, token: int) -> None:
        """The token was chosen.

        Raises:
            InvalidRequest: the grammar forbids it.
        """
        if not self.allows(token):
            raise InvalidRequest(f"the grammar forbids token {token} here", param="json_schema")
        self._allowed = None
        started = time.perf_counter()
        llama_cpp.llama_sampler_accept(self._sampler, token)
        _refuse_slow(started)

    def close(self) -> None:
        """Free it; once."""
        if self._sampler:
            self._free(self._sampler)
            self._sampler = None

    def __del__(self) -> None:
        self.close()

    def _begins_with_nul(self, token: int) -> bool:
        """Whether a token continues a character with zero bits alone, so that it may come to NUL.

        llama.cpp takes that for the end of the token where it is asked, but not where it is told.
        """
        n = llama_cpp.llama_token_to_piece(
            self._vocab, token, self._piece, len(self._piece), 0, True
        )
        return n < 0 or (n >= 2 and self._piece.raw.startswith(b"\x80\x80"))

    def _apply(self, tokens: npt.NDArray[np.void]) -> None:
        started = time.perf_counter()
        data = tokens.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data, len(tokens), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        _refuse_slow(started)


def _refuse_slow(started: float) -> None:
    if time.perf_counter() - started > _SLOWEST:
        raise InvalidRequest(
            "the grammar is too ambiguous: what was written so far can be read in too many ways",
            param="json_schema",
        )


def json_schema_to_gbnf(schema: Mapping[str, object]) -> str:
    """The grammar of the JSON that fits a schema. Nothing is ever fetched.

    Raises:
        InvalidRequest: the schema is one that the converter does not know, refers elsewhere, or is too large.
    """
    from llama_cpp.llama_grammar import json_schema_to_gbnf as convert

    try:
        _check_schema(schema)
        text = json.dumps(dict(schema))
        if len(text) > _LARGEST_SCHEMA:
            raise _schema_refusal(f"it has {len(text)} characters, of at most {_LARGEST_SCHEMA}")
        grammar = str(convert(text))
    except InvalidRequest:
        raise
    except RecursionError:
        raise _schema_refusal("it nests or repeats too deeply") from None
    except Exception as e:  # the converter asserts, and indexes what it is given
        raise _schema_refusal(str(e)[:200] or type(e).__name__) from e
    for theirs, ours in _STRICTER:
        grammar = f"\n{grammar}".replace(f"\n{theirs}", f"\n{ours}")[1:]
    if len(grammar) > _LONGEST_GRAMMAR:
        raise _schema_refusal(f"its grammar has {len(grammar)} characters, of {_LONGEST_GRAMMAR}")
    if "\0" in grammar or not _BARE.fullmatch(_QUOTED.sub("", grammar)):
        raise _schema_refusal("a pattern or value holds quotation marks or backslashes")
    return grammar


def _schema_refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be used: {reason}", param="json_schema")


_QUANTIFIER: Final = re.compile(r"\{([^}]*)\}")
# The converter loops for ever at a bracket that closes nothing.
_PATTERN: Final = re.compile(r"(?:\\.|\[(?:\\.|[^]\\])*\]|\{[^}]*\}|[^][{}\\])*", re.S)
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength")


def _check_schema(node: object) -> None:
    """Refuse what the converter would fetch, or write out until memory ends."""
    if isinstance(node, list):
        for item in node:
            _check_schema(item)
    elif isinstance(node, dict):
        ref = node.get("$ref", "#")
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise _schema_refusal(f"$ref {ref!r} refers elsewhere: only #/… is followed")
        for key, value in node.items():
            counted = key in _COUNTS and isinstance(value, (int, float))
            if counted and not 0 <= value <= _MOST_REPEATS:
                raise _schema_refusal(f"{key} is {value}, of at most {_MOST_REPEATS}")
            if key == "pattern" and isinstance(value, str):
                if not _PATTERN.fullmatch(value):
                    raise _schema_refusal(
                        "its pattern has a bracket or backslash without its other half"
                    )
                if _too_many(value):
                    raise _schema_refusal(f"its pattern repeats more than {_MOST_REPEATS} times")
            _check_schema(value)


def _too_many(pattern: str) -> bool:
    """Whether a quantifier, `{m,n}`, asks for too many."""
    counts = (n for found in _QUANTIFIER.findall(pattern) for n in found.split(","))
    return any(len(n.strip()) > 9 or int(n) > _MOST_REPEATS for n in counts if n.strip().isdigit())
