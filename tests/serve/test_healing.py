"""Token healing: completions re-spell the last token before the cursor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.decoder import BatchItem
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.llama import load
from serve.llama.decoder import LlamaDecoder
from serve.models.completion import Completion
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.request import Finished, GenerationRequest, SamplingParams, TextDelta
from serve.runner.generation import Answer
from serve.sampling.healing import Healing, PieceIndex, Spelling, heal
from serve.settings import ModelOptions, TextOptions
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import flask_client, make_service, pool_of

GREEDY = SamplingParams(temperature=0)
CUTS = (
    "import ",
    "def add(a, b):\n    retu",
    "import os\n\n\ndef f(path):\n    return os.path.",
    "x = [1, 2, ",
)


class Words:
    """Vocabulary for the index."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.piece = pieces.__getitem__


def spells(piece: bytes, text: bytes) -> bool:
    """Return whether a token spells all of a text, or the beginning of spaces."""
    if not text.strip(b" \t"):
        is_shorter = bool(piece) and text.startswith(piece)
        return is_shorter or (piece.startswith(text) and bool(piece.strip(b" \t")))
    return piece.startswith(text)


BYTES = st.one_of(st.binary(max_size=4), st.text(" \tab", max_size=4).map(str.encode))


@given(st.lists(BYTES, max_size=40), BYTES.filter(bool))
def test_spelling_has_the_tokens_that_contain_the_text(pieces: list[bytes], text: bytes) -> None:
    found = PieceIndex(Words(pieces), len(pieces)).spelling(text)  # type: ignore[arg-type]
    expected = [i for i, p in enumerate(pieces) if spells(p, text)]
    assert sorted(found.tolist()) == expected


def test_word_is_spelled_by_its_own_tokens_or_by_longer_ones() -> None:
    index = PieceIndex(Words([b"a", b"ab", b"abcd", b"c", b"cd", b"x"]), 6)  # type: ignore[arg-type]
    spelling = Spelling(Healing((1, 3), b"abc", index))
    logits = np.zeros(6, np.float32)
    assert np.flatnonzero(np.isfinite(spelling.mask(logits))).tolist() == [1, 2], "not [a]"
    assert spelling.feed(b"ab") == b""
    assert np.flatnonzero(np.isfinite(spelling.mask(logits))).tolist() == [3, 4]
    assert spelling.feed(b"cd") == b"d"
    assert spelling.mask(logits) is logits
    assert (spelling.feed(b"x"), spelling.n_tokens) == (b"x", 1)


def test_spaces_may_be_spelled_by_fewer() -> None:
    index = PieceIndex(Words([b" ", b"   ", b"    ", b"     ", b" x"]), 5)  # type: ignore[arg-type]
    spelling = Spelling(Healing((2,), b"    ", index))
    logits = np.zeros(5, np.float32)
    assert np.flatnonzero(np.isfinite(spelling.mask(logits))).tolist() == [0, 1, 2]
    assert spelling.feed(b"   ") == b""
    assert np.flatnonzero(np.isfinite(spelling.mask(logits))).tolist() == [0, 4]
    assert spelling.feed(b" x") == b"x"


@pytest.mark.parametrize(
    ("pieces", "keep", "left", "text"),
    [
        ([b"return", b" "], 0, 1, b" "),
        ([b" ret", b"u"], 0, 0, b" retu"),
        ([b"self", b".assert", b"E", b"q"], 0, 1, b".assertEq"),
        ([b"a", b"b", b"c", b"d", b"e", b"f"], 0, 2, b"cdef"),
        ([b"a", b"b"], 1, 1, b"b"),
        ([b"a", b""], 0, 2, b""),
        ([b"x", b"("], 0, 1, b"("),
    ],
)
def test_word_at_the_cursor_is_spelled_again(
    pieces: list[bytes], keep: int, left: int, text: bytes
) -> None:
    tokens = list(range(len(pieces)))
    healing = heal(tokens, PieceIndex(Words(pieces), len(pieces)), keep=keep)  # type: ignore[arg-type]
    assert len(tokens) == left
    assert (healing.text if healing else b"") == text


@pytest.fixture(scope="module")
def decoder(demo_gguf: Path) -> Iterator[LlamaDecoder]:
    decoder, _ = load(demo_gguf, ModelOptions(threads=1, ctx=512, n_seq=1))
    yield decoder
    decoder.close()


@pytest.fixture
def service(decoder: LlamaDecoder) -> Iterator[CompletionService]:
    decoder.remove(0, 0)
    engine = Engine(decoder, EngineOptions(looks_ahead=False))
    service = host(engine)
    yield service
    service.runner.close()


def answer(service: CompletionService, completion: Completion) -> Answer:
    return service.start(completion, whole=True).collect()


def healed_by_hand(decoder: LlamaDecoder, text: str, n: int) -> str:
    """Generate greedily after all tokens but the last, with a search through the whole vocabulary for each token."""
    tokens = decoder.tokenize(text, parse_special=False)
    healing = heal(tokens, PieceIndex(decoder, decoder.n_vocab))
    assert healing
    rest, out, own = healing.text, b"", list(healing.tokens)
    decoder.remove(0, 0)
    for _ in range(n + len(healing.tokens)):
        items = [BatchItem(t, i, 0, i == len(tokens) - 1) for i, t in enumerate(tokens)]
        (logits,) = decoder.decode(items)
        decoder.remove(0, 0)
        fits = [i for i in range(decoder.n_vocab) if spells(decoder.piece(i), rest)] + own[:1]
        token = max(fits if rest else range(decoder.n_vocab), key=lambda i: float(logits[i]))
        if decoder.is_eog(token):
            break
        data = decoder.piece(token)
        own = own[1:] if own[:1] == [token] else []
        out += data[len(rest) :]
        rest = rest[len(data) :]
        tokens.append(token)
    return out.decode(errors="ignore")


@pytest.mark.parametrize("text", CUTS)
def test_completion_equals_a_search_through_the_vocabulary(
    service: CompletionService, decoder: LlamaDecoder, text: str
) -> None:
    got = answer(service, Completion((text,), 8, sampling=GREEDY))
    service.runner.close()
    expected = healed_by_hand(decoder, text, 8)
    (choice,) = got.choices
    assert choice.text
    assert expected.startswith(choice.text)
    assert got.usage.prompt_tokens == len(decoder.tokenize(text, parse_special=False))
    assert 1 <= got.usage.completion_tokens <= 8


@pytest.mark.parametrize("drafts", [True, False])
def test_drafts_and_cached_answers_do_not_change_a_healed_completion(
    decoder: LlamaDecoder, drafts: bool
) -> None:
    decoder.remove(0, 0)
    engine = Engine(decoder, EngineOptions(drafts=drafts, looks_ahead=False))
    index = PieceIndex(decoder, decoder.n_vocab)

    def complete(text: str) -> tuple[str, Finished]:
        prompt = decoder.tokenize(text, parse_special=False)
        healing = heal(prompt, index)
        request = GenerationRequest(tuple(prompt), 12, sampling=GREEDY, healing=healing)
        events = engine.submit(0, request)
        while engine.has_work:
            events += engine.step()
        said = "".join(e.text for _, e in events if isinstance(e, TextDelta))
        (end,) = (e for _, e in events if isinstance(e, Finished))
        return said, end

    first = [complete(text)[0] for text in CUTS]
    again = [complete(text) for text in CUTS]
    assert [text for text, _ in again] == first
    assert all(end.usage.cached_tokens for _, end in again)
    engine.check_integrity()


def test_prompt_ends_before_the_token_and_text_after_the_cursor() -> None:
    service, runner = make_service(
        FakeDecoder(script("yes", after="well?")), text=TextOptions(ends_loops=False)
    )
    runner.start()
    with create_app(pool_of(service)).test_client() as client:
        got = client.post("/v1/completions", json={"prompt": "well?", "temperature": 0}).json
    runner.close()
    assert got["choices"][0]["text"] == "yes"  # type: ignore[index]
    assert bytes(runner.seen[-1].prompt) == b"well"
    assert got["usage"]["prompt_tokens"] == 5  # type: ignore[index]
    assert got["usage"]["completion_tokens"] == 3  # type: ignore[index]


def test_tokens_of_a_healed_completion_have_its_text(service: CompletionService) -> None:
    asked = Completion((CUTS[1],), 8, sampling=GREEDY)
    (plain,) = answer(service, asked).choices
    (choice,) = answer(service, replace(asked, n_logprobs=0)).choices
    assert choice.text == plain.text
    assert b"".join(t.token.data for t in choice.tokens).decode() == choice.text


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": list(b"well?")},
        {"prompt": "well?", "logprobs": 1},
        {"prompt": "well?", "logit_bias": {"65": -1}},
        {"prompt": "well?", "max_tokens": 0},
        {"prompt": "?"},
    ],
    ids=json.dumps,
)
def test_prompt_is_kept_if_the_client_decides_about_tokens(body: dict[str, Any]) -> None:
    service, runner = make_service(
        FakeDecoder(script("yes")), text=TextOptions(heals=True, ends_loops=False)
    )
    runner.start()
    with create_app(pool_of(service)).test_client() as client:
        assert client.post("/v1/completions", json=body).status_code == 200
    runner.close()
    assert bytes(runner.seen[-1].prompt).endswith(b"?")


def test_healing_can_be_turned_off() -> None:
    with flask_client(decoder=FakeDecoder(script("yes"))) as client:
        got = client.post("/v1/completions", json={"prompt": "well?", "temperature": 0}).json
    assert got["usage"]["prompt_tokens"] == 5  # type: ignore[index]
