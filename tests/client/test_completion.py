"""Completions from a server: errors with hints, and answers of servers that are broken or hostile."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from serve.security_options import SecurityOptions
from serve.upstream.client import MOST_LINE
from tests.support.engines import EngineExchange, FakeEngine, always
from tests.support.fakes import FakeDecoder, around_the_cursor, script
from tests.support.serving import running, wait
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.client import completion
from turbopilot.client.completion import (
    ROUTE,
    CursorAnswer,
    CursorCompletion,
    CursorRequest,
    collect,
    served_chunks,
)
from turbopilot.client.connection import (
    AnswerUnreadable,
    ServerConnection,
    ServerRefused,
    ServerUnreachable,
)
from turbopilot.client.cursor import CursorText

TEXT = CursorText("def f(", "\n    pass", "a.py")


def completed(server: ServerConnection, n: int = 1, **more: Any) -> CursorAnswer:
    request = CursorRequest(more.pop("text", TEXT), n, **more)
    with closing(served_chunks(server, request)) as chunks:
        return collect(chunks, n)


def chunk(text: str = "", reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
    return {"id": "cmpl-1", "model": "m", "choices": [choice], **more}


@contextmanager
def answering(answer: Callable[[EngineExchange], None]) -> Iterator[ServerConnection]:
    engine = FakeEngine({ROUTE: answer})
    try:
        yield ServerConnection(engine.url)
    finally:
        engine.die()


def streaming(*events: dict[str, Any] | str) -> Callable[[EngineExchange], None]:
    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        for event in events:
            exchange.event(event)
        exchange.end()

    return answer


def test_prefix_and_suffix_reach_the_model() -> None:
    with running(FakeDecoder(n_ctx=256)) as server:
        found = completed(ServerConnection(f"http://127.0.0.1:{server.port}"), max_tokens=6)
        (made,) = found.completions
        assert made.finish_reason == "length"
        assert len(made.text) == 6
        assert around_the_cursor(server.runner.seen[0].prompt) == (TEXT.prefix, TEXT.suffix)
        assert server.runner.seen[0].file == "a.py"
    assert found.usage
    assert found.usage["completion_tokens"] == 6
    assert found.timings
    assert found.timings["predicted_n"] == 6
    assert not found.is_truncated


def test_options_reach_the_model() -> None:
    with running(FakeDecoder(script("x"))) as server:
        completed(
            ServerConnection(f"http://127.0.0.1:{server.port}"), 2,
            max_tokens=3, temperature=0.5, top_p=0.9, seed=7, single_line=True, seconds=9,
        )  # fmt: skip
        first, second = server.runner.seen
    assert (first.max_tokens, first.sampling.temperature, first.sampling.seed) == (3, 0.5, 7)
    assert first.sampling.top_p == 0.9
    assert first.stop.single_line
    assert first.deadline == 9.0
    assert second.sampling.stream == 1


def test_several_completions_are_in_order() -> None:
    pieces = (chunk("b", index=1), chunk("a"), chunk("2", "stop", 1), chunk("1", "length"))
    with answering(streaming(*pieces, "[DONE]")) as server:
        found = completed(server, 2)
    assert found.completions == (CursorCompletion("a1", "length"), CursorCompletion("b2", "stop"))
    assert (found.model, found.usage, found.timings) == ("m", None, None)


def test_pieces_are_shown_as_they_arrive() -> None:
    shown: list[str] = []
    pieces = (chunk("a"), chunk("b", index=1), chunk("c", "stop"), chunk("", "stop", 1))
    collect(pieces, 2, shown.append)
    assert shown == ["a", "c"]


def test_missing_server_is_an_error_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ServerUnreachable, match=f"{url}: no server answers") as e:
        completed(ServerConnection(url, otherwise="or wait"))
    assert "turbopilot serve" in e.value.hint
    assert e.value.hint.endswith("; or wait")
    assert e.value.exit_code == 8


def test_missing_and_wrong_key_are_errors_with_a_hint() -> None:
    with running(FakeDecoder(script("x")), security=SecurityOptions(api_keys=("sk-1",))) as server:
        url = f"http://127.0.0.1:{server.port}"
        asked = CursorText("what?", "")
        assert completed(ServerConnection(url, "sk-1"), text=asked).completions[0].text == "x"
        assert completed(ServerConnection(url, "sk-1 sk-2"), text=asked)
        for key in ("", "sk-2"):
            with pytest.raises(ServerRefused, match="API key") as e:
                completed(ServerConnection(url, key))
            assert "--api-key" in e.value.hint


def test_key_that_cannot_be_sent_is_not_shown() -> None:
    for key in ("schlüssel", "a\x1bb"):
        with pytest.raises(InvalidInput, match="--api-key") as e:
            ServerConnection("http://127.0.0.1:1", key)
        assert key not in e.value.message


def test_invalid_value_has_the_servers_message_and_exit_code_2() -> None:
    message = "n must be at most 128"
    with running(FakeDecoder()) as server, pytest.raises(InvalidInput, match=message) as e:
        completed(ServerConnection(f"http://127.0.0.1:{server.port}"), 10**12)
    assert e.value.exit_code == 2


@pytest.mark.parametrize(
    ("status", "body", "message", "hint"),
    [
        (404, {"detail": "Not Found"}, "status 404", "--url"),
        (401, {"error": "who are you?"}, "who are you?", "--api-key"),
        (421, {"error": {"message": "wrong host"}}, "wrong host", "--allowed-host"),
        (500, b"<html>" + b"x" * 10_000, "status 500", "log"),
        (503, {"error": {"message": "the queue is full"}}, "the queue is full", "try again later"),
        (302, b"", "status 302", "log"),
        (500, {"error": {"message": "m" * 10_000}}, "mmm...", "log"),
        (500, b"[" * 100_000, "status 500", "log"),
    ],
)  # fmt: skip
def test_http_errors_have_message_and_hint(
    status: int, body: object, message: str, hint: str
) -> None:
    with (
        answering(always(body, status)) as server,
        pytest.raises(ServerRefused) as e,
    ):
        completed(server)
    assert e.value.message.endswith(message)
    assert len(e.value.message) < 1000
    assert hint in e.value.hint


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (["{not json"], "not a JSON object"),
        (["[1]"], "not a JSON object"),
        (["[" * 10_000], "not a JSON object"),
        ([chunk("x", index=1)], "not a chunk of 1 completion"),
        ([chunk("x", index=-1)], "not a chunk of 1 completion"),
        ([{"choices": [{"index": 0, "text": 5}]}], "not a chunk of 1 completion"),
        ([{"choices": ["x"]}], "not a chunk of 1 completion"),
        ([{"choices": "x"}], "ended before the completion"),
        ([chunk("x")], "ended before the completion"),
        ([chunk("x"), "[DONE]"], "ended before the completion"),
        ([], "ended before the completion"),
    ],
)
def test_other_answer_than_a_completion_is_an_error(events: list[Any], message: str) -> None:
    with answering(streaming(*events)) as server, pytest.raises(AnswerUnreadable, match=message):
        completed(server)


def test_other_page_is_an_error() -> None:
    page = always(b"<html>\n<p>Welcome")
    with answering(page) as server, pytest.raises(AnswerUnreadable, match="ended before"):
        completed(server)


def test_error_in_the_stream_is_an_error() -> None:
    failing = streaming(chunk("x"), {"error": {"message": "out of memory"}})
    with answering(failing) as server, pytest.raises(ServerRefused, match="out of memory"):
        completed(server)


def test_connection_that_breaks_off_is_an_error() -> None:
    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(chunk("x"))
        exchange.break_off()

    with answering(answer) as server, pytest.raises(TurboPilotError, match=r"broke off|ended") as e:
        completed(server)
    assert e.value.exit_code == 8


def test_line_without_end_is_an_error() -> None:
    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        for _ in range(2 + MOST_LINE // 65536):
            exchange.send(b"x" * 65536)
        exchange.end()

    with answering(answer) as server, pytest.raises(ServerUnreachable, match="broke off"):
        completed(server)


def test_completion_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_MOST_CHARACTERS", 1000)
    gone = threading.Semaphore(0)

    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        try:
            for _ in itertools.count():
                exchange.event(chunk("x" * 99))
        except OSError:
            gone.release()

    with answering(answer) as server:
        with pytest.raises(AnswerUnreadable, match="more than 1000 characters"):
            completed(server)
        wait(gone)


def test_answer_that_takes_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_GRACE_SECONDS", 0.2)

    def endless(exchange: EngineExchange) -> None:
        exchange.begin()
        for _ in itertools.count():
            exchange.send(b": still there\n\n")

    def silent(exchange: EngineExchange) -> None:
        exchange.is_gone()

    for answer in (endless, silent):
        with (
            answering(answer) as server,
            pytest.raises(ServerUnreachable, match="no answer in time"),
        ):
            completed(server, seconds=0)


def test_long_line_of_a_completion_is_kept() -> None:
    text = "\x1b[2J" * 150_000
    assert len(json.dumps(text)) > 1_000_000
    with answering(streaming(chunk(text[:300_000]), chunk(text[300_000:], "stop"))) as server:
        assert completed(server).completions[0].text == text


def test_closing_the_chunks_cancels_the_request() -> None:
    gone = threading.Semaphore(0)

    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(chunk("x"))
        if exchange.is_gone():
            gone.release()

    engine = FakeEngine({ROUTE: answer})
    try:
        chunks = served_chunks(ServerConnection(engine.url), CursorRequest(TEXT))
        next(chunks)
        chunks.close()
        wait(gone)
    finally:
        engine.die()
