"""Grammars: which are taken, and that llama.cpp then follows them without harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.llama.grammar import (
    make_constraint,
    unwritable_tokens,
)
from serve.sampling.gbnf_safety import check_gbnf
from turbopilot.base.errors import InvalidRequest


@pytest.fixture(scope="module")
def vocab(demo_gguf: Path) -> Iterator[Any]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(demo_gguf).encode(), params)
    yield llama_cpp.llama_model_get_vocab(model)
    llama_cpp.llama_model_free(model)


def size(vocab: Any) -> int:
    return int(llama_cpp.llama_vocab_n_tokens(vocab))


def tokens_of(vocab: Any, text: str) -> list[int]:
    ids = (llama_cpp.llama_token * 500)()
    data = text.encode()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, 500, False, False)
    return list(ids[:n])


def test_what_may_come_next_and_the_end_only_at_the_end(vocab: Any) -> None:
    eos = llama_cpp.llama_vocab_eos(vocab)
    constraint = make_constraint(vocab, 'root ::= "return " ("a" | "b")')
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
    constraint = make_constraint(vocab, 'root ::= "é" [a-c]* | "def " [^\\n]+')
    masked = constraint.mask(row)
    allowed = [constraint.allows(t) for t in range(size(vocab))]
    assert (masked > -np.inf).tolist() == allowed
    assert masked[allowed].tolist() == row[allowed].tolist()
    assert any(allowed)


def test_special_tokens_are_no_text(vocab: Any) -> None:
    special = unwritable_tokens(vocab)
    constraint = make_constraint(vocab, "root ::= .*")
    assert not any(constraint.allows(int(t)) for t in special)
    assert (constraint.mask(np.zeros(size(vocab), dtype=np.float32))[special] == -np.inf).all()


def test_a_forbidden_token_is_refused_and_does_not_end_the_process(vocab: Any) -> None:
    constraint = make_constraint(vocab, 'root ::= "x"')
    for token in (llama_cpp.llama_vocab_eos(vocab), tokens_of(vocab, "y")[0], 10**6):
        with pytest.raises(InvalidRequest, match="forbids"):
            constraint.accept(token)
    constraint.accept(tokens_of(vocab, "x")[0])
    constraint.close()
    constraint.close()


@pytest.mark.parametrize(
    ("reason", "grammar"),
    [
        ("no rule is named 'root'", ""),
        ("no rule is named 'root'", 'a ::= "b"'),
        ("no rule is named 'b'", "root ::= b"),
        ("line 1: expected ::=", "root = x"),
        ("line 2: expected the name", 'root ::= "a"\n*'),
        ("expected a character or a closing quote", 'root ::= "a'),
        ("expected a character or a closing quote", 'root ::= "\\q"'),
        ("expected a character or ]", "root ::= [a-z"),
        ("expected the end of a range", "root ::= [a-"),
        ("expected a closing bracket", 'root ::= ("a"'),
        ("something to repeat", "root ::= *"),
        ("something to repeat", 'root ::= ""{2}'),
        ("at least 3 and at most 2", 'root ::= "x"{3,2}'),
        ("repeats 3000 times", 'root ::= "x"{3000}'),
        ("multiply", 'root ::= ("a"{0,1000}){1000}'),
        ("expected }", 'root ::= "a"{99999999999999999999999}'),
        ("left recursion", 'root ::= root "x" | "y"'),
        ("'root' can begin with itself", 'a ::= b\nb ::= ""\nroot ::= a root "x"'),
        ("left recursion", 'root ::= a\na ::= b "x"\nb ::= ("y"?)? a "z"'),
        ("refuses it", 'root ::= "a"**'),
        ("refuses it", "root ::= root"),
        ("tokens", 'root ::= "a" !<[5]>'),
        ("tokens", "root ::= <|endoftext|>"),
        ("512 deep", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
        ("512 deep", "root ::= " + "(" * 60_000),
        ("70011 characters", 'root ::= "' + "a" * 70_000 + '"'),
        ("100000 elements", "root ::= " + ('"' + "a" * 999 + '"{100}') * 2),
        ("no text", 'root ::= "\ud800"'),
        ("no text", 'root ::= "a\0b"'),
        (
            "10000 ways",
            'root ::= r0\nr40 ::= "z"\n'
            + "\n".join(f'r{i} ::= r{i + 1} "a" | r{i + 1} "b"' for i in range(40)),
        ),
        (
            "10000 ways",
            'root ::= r0 "!"\nr20 ::= "z"?\n'
            + "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(20)),
        ),
    ],
)
def test_what_llama_cpp_cannot_read_or_bear_is_refused(
    vocab: Any, reason: str, grammar: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_constraint(vocab, grammar)
    assert caught.value.param == "grammar"
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= ([a-z]* "b"?)* "c"',  # comes back to itself, but with nothing behind
        "root ::= " + '("a" ' * 500 + ")?" * 500,
        "root ::= " + "(" * 500 + '"a"' + ")" * 500,
        'root ::= "' + "a" * 60_000 + '"',
        'root ::= "a"{0,100000}',
        'root ::= "a"{0,2000}',
        "root ::= [\\]\\-\\x41\\u00e9\\U0001F600^-] # said\r\n\r\n",
        'root ::= (\n  # here, too\n  a | b\n) [^a-z-]\na ::= b |\n  "c" \nb ::= .+\n',
    ],
)
def test_what_it_bears_is_taken_in_any_thread(vocab: Any, grammar: str) -> None:
    found: list[object] = []

    def work() -> None:
        constraint = make_constraint(vocab, grammar)
        found.append(constraint.mask(np.zeros(size(vocab), dtype=np.float32)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found


SYNTAX = st.lists(
    st.sampled_from(
        ["root", "a", " ::= ", "::=", '"x"', '""', "[a-c]", "[^x]", "[]", ".", "(", ")", "|", "*",
         "+", "?", "{2}", "{1,3}", "{0,}", "{,2}", "{2,1}", "{0,0}", "\n", "\nroot ::= ", "\na ::= ",
         " ", "# c\n", '"\\x41"', '"\\q"', "\\", "-", "é", "\r\n", "<", "!"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@settings(
    max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(SYNTAX)
def test_we_read_what_llama_cpp_reads(vocab: Any, tail: str) -> None:
    grammar = "root ::= " + tail
    try:
        check_gbnf(grammar)
    except InvalidRequest as e:
        ours, reason = False, str(e)
    else:
        ours, reason = True, ""
    if any(
        w in reason
        for w in ("tokens", "left recursion", "at least", "elements", "multiply", "no rule")
    ):
        # llama.cpp would not look at a rule that is repeated 0 times
        return  # llama.cpp would take some of these, and not return from others
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
    theirs = bool(sampler)
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
    if ours and not theirs:  # it knows left recursion that never grows, and refuses it
        with pytest.raises(InvalidRequest, match="begins with itself"):
            make_constraint(vocab, grammar)
    elif (
        "no rule is named" not in reason
    ):  # missed even where {0,0} or a later rule takes it out again
        assert ours == theirs, reason


def test_an_ambiguous_grammar_is_ended(vocab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.llama.grammar._SLOWEST", 0.0)  # any time is too long
    constraint = make_constraint(vocab, 'root ::= "a" root "b" | "a" root "c" | "a"')
    with pytest.raises(InvalidRequest, match="ambiguous"):
        constraint.allows(0)
