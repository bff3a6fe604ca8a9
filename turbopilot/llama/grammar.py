"""Grammars of llama.cpp, which constrain the tokens of a completion.

llama.cpp aborts the process if it accepts a token that the grammar forbids, so every token is checked first.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import InvalidRequest
from turbopilot.llama.library import llama_cpp

# Maximum seconds for one check. It takes milliseconds unless the number of possible parses grows with the text.
_SLOWEST: Final = 2.0
# llama_token_data in llama.h.
_TOKEN_DATA: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

Logits: TypeAlias = npt.NDArray[np.float32]
TokenIds: TypeAlias = npt.NDArray[np.int64]


def unwritable_tokens(vocab: Any) -> TokenIds:
    """Return the special tokens that do not end generation, because grammars would match their names as text."""
    n = int(llama_cpp.llama_vocab_n_tokens(vocab))
    return np.array([t for t in range(n) if _is_unwritable(vocab, t)], dtype=np.int64)


def _is_unwritable(vocab: Any, token: int) -> bool:
    is_control = llama_cpp.llama_vocab_is_control(vocab, token)
    return bool(is_control and not llama_cpp.llama_vocab_is_eog(vocab, token))


class LlamaConstraint:
    """State of a GBNF grammar in one sequence; the model must outlive it.

    The grammar must have a rule named root. `unwritable` is `unwritable_tokens(vocab)`; if None, it is computed when it
    is first needed.
    """

    def __init__(self, vocab: Any, grammar: str, unwritable: TokenIds | None = None) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        if not self._sampler:
            raise InvalidRequest(
                "the JSON schema cannot be used: llama.cpp rejects its grammar (for example, a left-recursive rule)",
                param="json_schema",
            )
        self._vocab = vocab
        self._free = llama_cpp.llama_sampler_free
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._unwritable = unwritable
        self._one = np.zeros(1, dtype=_TOKEN_DATA)
        self._all: npt.NDArray[np.void] | None = None
        self._allowed: int | None = None  # last token checked, if it is allowed next
        self._piece = ctypes.create_string_buffer(1024)

    def allows(self, token: int) -> bool:
        """Return whether the grammar allows the token next."""
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
        """Return a copy of the logits in which every forbidden token is minus infinity."""
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
        """Advance the grammar by a chosen token; raise InvalidRequest if the token is forbidden."""
        if not self.allows(token):
            raise InvalidRequest(f"the grammar forbids token {token} here", param="json_schema")
        self._allowed = None
        started = time.perf_counter()
        llama_cpp.llama_sampler_accept(self._sampler, token)
        _refuse_slow(started)

    def close(self) -> None:
        """Free the grammar. A second call does nothing."""
        if self._sampler:
            self._free(self._sampler)
            self._sampler = None

    def __del__(self) -> None:
        self.close()

    def _begins_with_nul(self, token: int) -> bool:
        """Return whether a token starts with UTF-8 continuation bytes of zero bits, so that it may decode to NUL.

        llama.cpp treats NUL as the end of the token when it checks a token, but not when it accepts one.
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
            "the grammar is too ambiguous: the text so far can be parsed in too many ways",
            param="json_schema",
        )


def json_schema_to_gbnf(schema: str) -> str:
    """Return the GBNF grammar for a JSON schema; llama_cpp's converter may raise any Exception."""
    # Imported late, because few requests need it.
    from llama_cpp.llama_grammar import json_schema_to_gbnf as convert

    return str(convert(schema))
