"""Grammar constraints in llama.cpp."""

from __future__ import annotations

import threading
from typing import Any

import llama_cpp
import numpy as np
import pytest

from turbopilot.base.errors import InvalidRequest
from turbopilot.llama.grammar import (
    LlamaConstraint,
    unwritable_tokens,
)


def size(vocab: Any) -> int:
    return int(llama_cpp.llama_vocab_n_tokens(vocab))


def tokens_of(vocab: Any, text: str) -> list[int]:
    ids = (llama_cpp.llama_token * 500)()
    data = text.encode()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, 500, False, False)
    return list(ids[:n])


def test_constraint_allows_the_grammars_tokens_and_the_end_only_at_its_end(vocab: Any) -> None:
    eos = llama_cpp.llama_vocab_eos(vocab)
    constraint = LlamaConstraint(vocab, 'root ::= "return " ("a" | "b")')
    assert not constraint.allows(eos)
    assert not constraint.allows(-1)
    assert not constraint.allows(size(vocab))
    for token in tokens_of(vocab, "return b"):
        masked = constraint.mask(np.zeros(size(vocab), dtype=np.float32))
        assert masked[token] == 0
        assert masked[eos] == -np.inf
        constraint.accept(token)
    masked = constraint.mask(np.zeros(size(vocab), dtype=np.float32))
    assert np.flatnonzero(masked > -np.inf).tolist() == [eos]
    assert constraint.allows(eos)


def test_mask_and_allows_agree(vocab: Any) -> None:
    row = np.arange(size(vocab), dtype=np.float32)
    row.setflags(write=False)
    constraint = LlamaConstraint(vocab, 'root ::= "é" [a-c]* | "def " [^\\n]+')
    masked = constraint.mask(row)
    allowed = [constraint.allows(t) for t in range(size(vocab))]
    assert (masked > -np.inf).tolist() == allowed
    assert masked[allowed].tolist() == row[allowed].tolist()
    assert any(allowed)


def test_grammar_never_allows_special_tokens(vocab: Any) -> None:
    special = unwritable_tokens(vocab)
    constraint = LlamaConstraint(vocab, "root ::= .*")
    assert not any(constraint.allows(int(t)) for t in special)
    assert (constraint.mask(np.zeros(size(vocab), dtype=np.float32))[special] == -np.inf).all()


def test_accepting_a_forbidden_token_raises_instead_of_aborting(vocab: Any) -> None:
    constraint = LlamaConstraint(vocab, 'root ::= "x"')
    for token in (llama_cpp.llama_vocab_eos(vocab), tokens_of(vocab, "y")[0], 10**6):
        with pytest.raises(InvalidRequest, match="forbids"):
            constraint.accept(token)
    constraint.accept(tokens_of(vocab, "x")[0])
    constraint.close()
    constraint.close()


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= ([a-z]* "b"?)* "c"',  # a repetition that can match nothing
        "root ::= " + '("a" ' * 500 + ")?" * 500,
        "root ::= " + "(" * 500 + '"a"' + ")" * 500,
        'root ::= "' + "a" * 60_000 + '"',
        "root ::= [\\]\\-\\x41\\u00e9\\U0001F600^-] # said\r\n\r\n",
        'root ::= (\n  # here, too\n  a | b\n) [^a-z-]\na ::= b |\n  "c" \nb ::= .+\n',
    ],
)
def test_large_and_unusual_grammars_work_in_any_thread(vocab: Any, grammar: str) -> None:
    found: list[object] = []

    def work() -> None:
        constraint = LlamaConstraint(vocab, grammar)
        found.append(constraint.mask(np.zeros(size(vocab), dtype=np.float32)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found


def test_ambiguous_grammar_is_rejected(vocab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbopilot.llama.grammar._SLOWEST", 0.0)  # any time is too long
    constraint = LlamaConstraint(vocab, 'root ::= "a" root "b" | "a" root "c" | "a"')
    with pytest.raises(InvalidRequest, match="ambiguous"):
        constraint.allows(0)
