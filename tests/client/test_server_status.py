"""Status of a server: what is not one, measurements that are kept, and a server that is gone and comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from serve.api.status import StatusAnswer
from tests.clients.live import wait_until
from tests.support.engines import EngineExchange, FakeEngine, always
from tests.support.server_status import (
    STARTED,
    request_times,
    sample,
    server_event,
    server_status,
)
from turbopilot.client import server_status as module
from turbopilot.client.connection import AnswerUnreadable, ServerConnection, ServerRefused
from turbopilot.client.server_status import (
    ROUTE,
    STREAM_ROUTE,
    StatusFollower,
    StatusHistory,
    status_of,
)


def status(**more: Any) -> StatusAnswer:
    return cast(StatusAnswer, server_status(**more))


def asked(answer: Callable[[EngineExchange], None]) -> StatusAnswer:
    engine = FakeEngine({ROUTE: answer})
    try:
        return status_of(ServerConnection(engine.url))
    finally:
        engine.die()


def test_status_is_read() -> None:
    assert asked(always(server_status(more="unknown fields are ignored"))) == server_status()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"",
        b"[" * 100_000,
        {"status": "ok"},
        server_status(models=[{"name": "x"}]),
        server_status(samples=[sample(0, cpu=-1)]),
        json.dumps(server_status()).replace("61.0", "NaN").encode(),
        json.dumps(server_status()).replace("100.0", "1e999").encode(),
        server_status(events=[server_event(1, "x", level="[bold]")]),
    ],
)
def test_other_answers_are_errors(answer: Any) -> None:
    with pytest.raises(AnswerUnreadable, match="not the status of a server") as e:
        asked(always(answer))
    assert len(e.value.message) < 500
    assert e.value.exit_code == 8


def test_endless_answer_is_an_error() -> None:
    def answer(exchange: EngineExchange) -> None:
        exchange.begin()
        while True:
            exchange.send(b" " * 65536)

    with pytest.raises(AnswerUnreadable, match="longer than"):
        asked(answer)


def test_server_without_a_status_is_an_error() -> None:
    with pytest.raises(ServerRefused) as e:
        asked(always({"detail": "Not Found"}, 404))
    assert "--url" in e.value.hint


def test_measurements_requests_and_events_are_kept() -> None:
    first = status(
        samples=[sample(0), sample(1)], requests=[request_times("a")], events=[server_event(1, "x")]
    )
    second = status(
        samples=[sample(2)],
        requests=[request_times("a"), request_times("b")],
        events=[server_event(1, "x"), server_event(2, "y")],
    )
    found = StatusHistory.beginning(first).then(second).then(second)
    assert [s["time"] - STARTED for s in found.samples] == [0, 1, 2]
    assert [r["id"] for r in found.requests] == ["a", "b"]
    assert [e["id"] for e in found.events] == [1, 2]
    assert found.status is second


def test_history_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SAMPLES", 2)
    monkeypatch.setattr(module, "_MOST_ROWS", 1)
    found = StatusHistory.beginning(status(samples=[sample(i) for i in range(9)]))
    found = found.then(status(samples=[sample(9)], requests=[request_times("b")]))
    assert [s["time"] - STARTED for s in found.samples] == [8, 9]
    assert [r["id"] for r in found.requests] == ["b"]


def test_history_begins_again_with_a_new_server() -> None:
    new = status(started=STARTED + 100, samples=[sample(100)], events=[server_event(0, "x")])
    found = StatusHistory.beginning(status()).then(new)
    assert found == StatusHistory.beginning(new)


def test_follower_follows_the_stream() -> None:
    ended = threading.Event()

    def stream(exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(server_status(samples=[sample(60)], version="3.0.1"))
        if exchange.is_gone():
            ended.set()

    engine = FakeEngine({ROUTE: always(server_status()), STREAM_ROUTE: stream})
    try:
        follower = StatusFollower(ServerConnection(engine.url), status())
        wait_until(lambda: len(follower.history.samples) == 61)
        assert follower.history.status["version"] == "3.0.1"
        assert follower.failure == ""
        follower.close()
        assert ended.wait(60)
    finally:
        engine.die()


def test_follower_reports_a_server_that_is_gone_and_follows_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)

    def refuse(exchange: EngineExchange) -> None:
        exchange.reply({"error": {"message": "the server is shutting down"}}, 503)

    def stream(exchange: EngineExchange) -> None:
        exchange.begin()
        exchange.event(server_status(version="3.0.1"))
        exchange.is_gone()

    engine = FakeEngine({ROUTE: refuse, STREAM_ROUTE: stream})
    follower = StatusFollower(ServerConnection(engine.url), status())
    try:
        wait_until(lambda: follower.failure)
        assert follower.failure == "/status: the server is shutting down"
        assert follower.history.status["version"] == "3.0.0"
        engine.routes[ROUTE] = always(server_status())
        wait_until(lambda: follower.history.status["version"] == "3.0.1")
        assert follower.failure == ""
        engine.routes[STREAM_ROUTE] = always(b"")
        engine.routes[ROUTE] = always(b"broken")
        engine.seen[-1].break_off()
        wait_until(lambda: "not the status" in follower.failure)
    finally:
        follower.close()
        engine.die()
