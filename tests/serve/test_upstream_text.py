"""Text of upstreams: our rules, re-spelling at the cursor, and the numbers of tokens."""

from __future__ import annotations

from typing import Any

import pytest

from serve.request import GenerationRequest, StopRules, Usage
from serve.sampling.healing import Healing, PieceIndex
from serve.upstream.dialect import EnginePiece
from serve.upstream.llama_dialect import respelling
from serve.upstream.progress import Misspelled, UpstreamProgress
from tests.support.engines import EngineExchange, engines, llama_end, llama_event, llama_routes
from tests.support.fakes import EOG, N_VOCAB, FakeDecoder
from tests.support.upstreams import asked, begin, runner_of, taken


class WordDecoder(FakeDecoder):
    """Fake vocabulary with some words; ids from 300 on."""

    WORDS = (b"re", b"ret", b"return", b"  ", b"    ", b" x")

    def piece(self, token: int) -> bytes:
        return self.WORDS[token - 300] if token >= 300 else super().piece(token)


WORDS = WordDecoder()
INDEX = PieceIndex(WORDS, 306)


def healed(text: bytes, *tokens: int) -> Healing:
    return Healing(tokens or tuple(text), text, INDEX, at=1)


def progress(request: GenerationRequest, *, heals: bool = False) -> UpstreamProgress:
    return UpstreamProgress(request, WORDS, 100.0, heals_here=heals)


def told(p: UpstreamProgress, *pieces: EnginePiece, now: float = 101.0) -> str:
    return "".join(d.text for piece in pieces for d in p.take(piece, now))


def text(data: str, *ids: int, **more: Any) -> EnginePiece:
    return EnginePiece(data, n_tokens=len(ids) or 1, token_ids=ids, **more)


def test_rules_for_text_are_ours() -> None:
    p = progress(asked("x", 99, stop=StopRules(single_line=True)))
    assert told(p, text("  a ="), text(" 1\nb = 2")) == "  a = 1"
    assert p.ended == "stop"
    p = progress(asked("x", 99, stop=StopRules(follows="\n    return 12345\n")))
    assert told(p, text("y\n    return "), text("12345\n")) == "y"
    p = progress(asked("x", 99, stop=StopRules(("END",))))
    assert told(p, text("aE"), text("N"), text("D b")) == "a"
    assert p.stop_string == "END"


def test_end_token_ends_the_text() -> None:
    p = progress(asked("x", 99))
    assert told(p, text("a", 97), text("", EOG)) == "a"
    assert (p.ended, p.n_new) == ("stop", 1)


def test_held_back_text_is_delivered_at_the_end() -> None:
    p = progress(asked("x", 99, stop=StopRules(("END",))))
    assert told(p, text("aE")) == "a"
    assert told(p, EnginePiece(finish="length")) == "E"
    assert p.ended == "length"


def test_time_limit_ends_the_text_after_a_line() -> None:
    p = progress(asked("x", 99, predict_time=5.0))
    assert told(p, text("a"), now=101) + told(p, text("b"), now=200) == "ab"
    assert not p.ended
    assert told(p, text("\n"), now=201) == "\n"
    assert p.ended == "length"


def test_counts_and_times_of_the_engine_are_used_if_it_reports_them() -> None:
    p = progress(asked("abc", 99))
    told(p, text("a", n_cached=2, prompt_seconds=0.5), now=101)
    told(p, text("b", n_total=7), now=103)
    assert p.usage == Usage(3, 7, 2, prompt_seconds=0.5, predict_seconds=2.0, queue_seconds=0.5)
    p = progress(asked("abc", 99))
    told(p, text("a"), now=104)
    assert (p.usage.prompt_seconds, p.usage.completion_tokens) == (4.0, 1)


def test_request_that_only_warms_the_cache_has_no_text() -> None:
    p = progress(asked("x", 0))
    assert told(p, text("a", 97), EnginePiece(finish="length")) == ""
    assert p.ended == "length"
    assert p.n_new == 1


def test_respelled_characters_are_not_part_of_the_text() -> None:
    p = progress(asked("x", 9, healing=healed(b"ret", 301)), heals=True)
    assert told(p, text("return", 302), text(" x", 305)) == "urn x"
    assert p.n_new == 2
    p = progress(asked("x", 9, healing=healed(b"ret", 301)), heals=True)
    assert told(p, text("ret", 301), text(" x", 305)) == " x"
    assert p.n_new == 1, "a token that only re-spells is not counted"


def test_text_limit_counts_new_tokens() -> None:
    p = progress(asked("x", 2, healing=healed(b"ret", 301)), heals=True)
    assert told(p, text("ret", 301), text("a"), text("b")) == "ab"
    assert p.ended == "length"


@pytest.mark.parametrize(
    ("rest", "pieces"),
    [
        (b"ret", [text("x", 120)]), (b"ret", [text("re", 300)]), (b"ret", [text("rex")]),
        (b"  ", [text("    ", 304)]), (b"ret", [text("r"), EnginePiece(finish="stop")]),
    ],
    ids=["another text", "another part of the word", "a text that differs later", "more spaces", "an early end"],
)  # fmt: skip
def test_completion_that_does_not_continue_the_prompt_is_noticed(
    rest: bytes, pieces: list[EnginePiece]
) -> None:
    p = progress(asked("x", 9, healing=healed(rest, 301)), heals=True)
    with pytest.raises(Misspelled):
        told(p, *pieces)


def test_grammar_allows_the_same_tokens_as_our_sampler() -> None:
    grammar = respelling(healed(b"ret", 301))
    assert grammar == r"root ::= (<[301]> | <[302]> | <[301]> ) [^\x00]*"
    parts = respelling(healed(b"ret", ord("r"), 300 + 0))
    assert parts.startswith("root ::= (<[301]> | <[302]> | <[114]> (")
    assert respelling(healed(b"  ", 303)) == r'root ::= "  " ([^ \t\x00] [^\x00]*)?'


def test_engine_is_asked_again_until_it_continues_the_prompt() -> None:
    """First with the shortened prompt, then held to it by a grammar, then with the whole prompt."""
    answers = iter((("wrong", "stop"), ("also wrong", "stop"), ("ok", "eos")))

    def answer(e: EngineExchange) -> None:
        content, _ = next(answers)
        e.begin()
        e.event(llama_event(content))
        e.event(llama_end("eos"))
        e.end()

    healing = Healing(tuple(b"re"), b"re", PieceIndex(FakeDecoder(), N_VOCAB), at=2)
    request = asked("a b", 9, healing=healing)
    with engines(llama_routes(answer)) as (engine,), runner_of([engine]) as runner:
        assert taken(begin(runner, request))[0] == "ok"
        sent = [e.body for e in engine.asked("/completion")]
        assert [bytes(b["prompt"]) for b in sent] == [b"a b", b"a b", b"a reb"]
        assert ["grammar" in b for b in sent] == [False, True, False]
        assert [b["n_predict"] for b in sent] == [11, 11, 9]
        assert runner.upstreams.statuses[0].outcomes["ok"] == 1
