"""Constraints that make a text fit a JSON schema: llguidance's matcher over a model's vocabulary.

A schema comes from a client, so it may be made to take as long as possible. llguidance counts the work of each call and
gives up at `_LIMITS`: then the request fails, and no other. Source of the speeds: LLParserLimits in llguidance.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from serve.decoder import Logits, Tokenizer
from turbopilot.base.errors import InvalidRequest

# Characters of a schema, and with them the time to build its matcher.
_LARGEST_SCHEMA: Final = 1 << 15
# The matcher has a state for each remainder of a division by the least common multiple of all `multipleOf`.
_MOST_REMAINDERS: Final = 10_000
# The longest token in bytes that llguidance takes is 1024; a longer one is never chosen.
_LONGEST_TOKEN: Final = 1000
_LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # to build the matcher: 20 ms
    step_lexer_fuel=200_000,  # for one token: 14 ms
    step_max_items=50_000,  # for one token: 3 ms
    max_lexer_states=50_000,  # 2 kB each: at most 100 MB
    verbose_errors=False,  # else they quote the text
)
# Unknown keywords are ignored. At most one space is allowed between values, so that no model writes spaces endlessly.
_OPTIONS: Final = {"lenient": True, "whitespace_pattern": " "}
# Without `no_forcing`, llguidance would choose the only possible text's tokens, which the model may never have seen.
_GRAMMAR: Final = '%llguidance {"no_forcing": true}\nstart: %json '
_Made = TypeVar("_Made")
_PREFIX: Final = re.compile(r"^(at \d+\(\d+\): )?failed to (compile JSON schema|parse \"%json\"): ")


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema as text; raise InvalidRequest if it is too large."""
    try:
        text = json.dumps({**schema, "x-guidance": _OPTIONS}, allow_nan=False)
        n_remainders = _remainders(schema)
    except RecursionError:
        raise _refusal("it is nested too deeply") from None
    except ValueError as e:
        raise _refusal(str(e)) from None
    if len(text) > _LARGEST_SCHEMA:
        raise _refusal(f"it has {len(text)} characters, the limit is {_LARGEST_SCHEMA}")
    if n_remainders > _MOST_REMAINDERS:
        raise _refusal(f"its multipleOf values have a product above {_MOST_REMAINDERS}")
    return text


def _remainders(schema: object) -> Fraction:
    """Return the product of all different values of `multipleOf`, as integers of their last decimal."""
    found, todo = set[object](), [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            value = node.get("multipleOf")
            if isinstance(value, (int, float)) and value:
                found.add(value)
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    product = Fraction(1)
    for value in found:
        exact = Fraction(Decimal(str(value)))
        product *= abs(exact.numerator) * exact.denominator
    return product


class SchemaVocabulary:
    """A model's vocabulary as llguidance reads it, to make constraints from schemas. Callable from any thread.

    It is built when first needed, which takes about a second for 150,000 tokens.
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._tokenizer, self._n_vocab = tokenizer, n_vocab
        self._lock = threading.Lock()
        self._built: LLTokenizer | None = None

    def constraint(self, schema: str) -> SchemaConstraint:
        """Return the constraint of a `schema_text` at its start; raise InvalidRequest if llguidance refuses it."""
        with self._lock:
            built = self._built = self._built or _guarded(self._build)
        matcher = _guarded(lambda: LLMatcher(built, _GRAMMAR + schema, log_level=0, limits=_LIMITS))
        return SchemaConstraint(matcher, self._n_vocab)

    def _build(self) -> LLTokenizer:
        tokenizer, ids = self._tokenizer, range(self._n_vocab)
        ends = [t for t in ids if tokenizer.is_eog(t)]
        # A token without bytes, such as a special one, is never allowed; ends are, where the text may end.
        pieces = (b"" if tokenizer.is_eog(t) else tokenizer.piece(t) for t in ids)
        words = _Words([p if len(p) <= _LONGEST_TOKEN else b"" for p in pieces], ends)
        built = LLTokenizer(words, eos_token=ends or None)
        words.tokens = []
        return built


class _Words(TokenizerWrapper):
    """The vocabulary that LLTokenizer reads. It keeps this object, which therefore refers to no model."""

    def __init__(self, tokens: list[bytes], ends: list[int]) -> None:
        self.is_tokenizer_wrapper = True
        self.tokens, self.special_token_ids = tokens, ()
        self.bos_token_id = None
        self.eos_token_id = ends[0] if ends else None  # type: ignore[assignment]  # it takes None

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("llguidance tokenizes only what it forces")


class SchemaConstraint:
    """The tokens that may come next in one text; see `Constraint`. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher, self._n_vocab = matcher, n_vocab
        self._allowed: npt.NDArray[np.uint8] | None = None  # a bit for each token
        self._check()

    def copy(self) -> SchemaConstraint:
        """Return another constraint in the same state."""
        return SchemaConstraint(self._matcher.deep_copy(), self._n_vocab)

    def allows(self, token: int) -> bool:
        """Return whether the token may come next."""
        return 0 <= token < self._n_vocab and bool(self._bits()[token >> 3] >> (token & 7) & 1)

    def mask(self, logits: Logits) -> Logits:
        """Return a copy of the logits with minus infinity for every token that may not come next."""
        allowed = np.unpackbits(self._bits(), count=self._n_vocab, bitorder="little")
        return np.where(allowed, logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """Advance by a chosen token."""
        if not self.allows(token):
            raise InvalidRequest(f"the JSON schema forbids token {token} here", param="json_schema")
        self._allowed = None
        self._matcher.consume_token(token)
        self._check()

    def _bits(self) -> npt.NDArray[np.uint8]:
        if self._allowed is None:
            self._allowed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            self._check()
        return self._allowed

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refusal(self._matcher.get_error())


def _guarded(make: Callable[[], _Made]) -> _Made:
    """Call a constructor of llguidance, whose panics are BaseExceptions."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:
        raise _refusal(str(e)) from e


def _refusal(reason: str) -> InvalidRequest:
    first, *more = _PREFIX.sub("", reason).split("\n")
    # The lines between quote the pattern; the last one of a regular expression's error says what is wrong.
    causes = [line.removeprefix("error: ") for line in more if line.startswith("error: ")]
    if first.startswith("NoExtension"):
        first = "no text fits it"
    text = " ".join([first or "it is too complex", *causes])
    return InvalidRequest(f"the JSON schema cannot be used: {text[:200]}", param="json_schema")
