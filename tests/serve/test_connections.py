"""Connections: their limit, keep-alive, and clients that close only their sending side."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serve.http import channel as limits
from serve.http.channel import dispensable, most_connections
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import ask, connection, read_all, running, send, served, wait
from tests.support.wire import GET, POST, Answers, statuses, with_length
from turbopilot.base.errors import DecoderFailed

MOST = 20


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", MOST)


@contextmanager
def flood(port: int, data: bytes = b"") -> Iterator[None]:
    """Open more connections than the server allows, and send the same bytes over each."""
    with ExitStack() as stack:
        for _ in range(3 * MOST):
            s = stack.enter_context(connection(port))
            s.sendall(data)
        yield


@pytest.mark.parametrize("data", [b"", b"GET /health HTTP/1.1\r\n"], ids=["idle", "incomplete"])
def test_new_client_is_served_while_others_hold_all_connections(data: bytes) -> None:
    with running(FakeDecoder()) as r, flood(r.port, data):
        assert ask(r.port, "GET", "/health")[0] == 200
        body = {"prompt": "x", "max_tokens": 1}
        assert ask(r.port, "POST", "/v1/completions", body)[0] == 200
        assert len(r.server._server.active_channels) < MOST


def test_connection_with_a_running_request_stays_open() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with running(decoder) as r, connection(r.port) as s:
        send(s, {"prompt": "x", "max_tokens": 2})
        wait(r.runner.submitted)
        with flood(r.port):
            assert ask(r.port, "GET", "/health")[0] == 200  # so all connections were accepted
            decoder.let(2)
            assert s.recv(65536).startswith(b"HTTP/1.1 200")


def test_closing_connections_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    with running(FakeDecoder(), clock=lambda: now[0]) as r:
        for minutes in range(3):
            now[0] = 60.0 * minutes
            with flood(r.port):
                assert ask(r.port, "GET", "/health")[0] == 200
    assert caplog.text.count("connections are open: closing idle ones") == 3
    assert "no longer accepting" not in caplog.text


def channel(address: str, last: float, *, processes: bool = False) -> Any:
    return SimpleNamespace(addr=(address, 1), requests=["x"] * processes, last_activity=last)


def test_client_with_the_most_connections_loses_its_longest_idle_one() -> None:
    alone = channel("10.0.0.1", 0.0)
    busy = channel("10.0.0.2", 1.0, processes=True)
    newer, older = channel("10.0.0.2", 4.0), channel("10.0.0.2", 3.0)
    assert dispensable([alone, busy, newer, older]) is older
    assert dispensable([alone, busy, newer]) is newer
    assert dispensable([alone, busy]) is alone
    assert dispensable([busy]) is None
    assert dispensable([]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_fewer_connections_are_allowed_if_the_process_may_open_few_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import resource

    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 1000)
    for soft, wanted in (
        (resource.RLIM_INFINITY, 1000),
        (20000, 1000),
        (1024, 960),
        (256, 192),
        (64, 32),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_connections() == wanted


# Keep-alive

STREAM: dict[str, object] = {"prompt": "well?", "stream": True}


def test_connection_stays_open_after_streams() -> None:
    with running(FakeDecoder(script("yes"))) as r, connection(r.port) as s:
        answers = Answers(s)
        for path in ("/v1/completions", "/infill", "/v1/completions"):
            send(s, STREAM, path)
            status, data = answers.next()
            assert (status, data[:6]) == (200, b"data: ")
        assert data.endswith(b"data: [DONE]\n\n")
        assert len(r.server._server.active_channels) == 1


def test_connection_stays_open_after_a_failed_stream() -> None:
    failures = [DecoderFailed("boom")]
    decoder = FakeDecoder(script("yes"), fail=lambda _: failures.pop() if failures else None)
    with running(decoder) as r, connection(r.port) as s:
        answers = Answers(s)
        send(s, STREAM)
        assert b"boom" in answers.next()[1]
        send(s, STREAM)
        assert answers.next()[1].endswith(b"data: [DONE]\n\n")


def test_connection_stays_open_after_a_preflight_request() -> None:
    asked = b"OPTIONS /infill HTTP/1.1\r\nHost: localhost\r\nOrigin: vscode-webview://x\r\n"
    with running(FakeDecoder()) as r, connection(r.port) as s:
        answers = Answers(s)
        s.sendall(asked + b"Access-Control-Request-Method: POST\r\n\r\n")
        assert answers.next() == (204, b"")
        s.sendall(GET + b"\r\n")
        assert answers.next()[0] == 200


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Connection: close\r\n",
        POST.replace(b"1.1", b"1.0"),
        POST.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n",
    ],
    ids=["close", "HTTP/1.0", "HTTP/1.0 keep-alive"],
)
def test_connection_is_closed_after_a_stream_if_the_client_needs_it(head: bytes) -> None:
    with running(FakeDecoder(script("yes"))) as r, connection(r.port) as s:
        s.sendall(with_length(json.dumps(STREAM).encode(), head))
        head, data = read_all(s).split(b"\r\n\r\n", 1)
        assert b"Connection: close" in head
        assert b"data: [DONE]\n\n" in data


def test_connection_is_closed_if_a_chunked_response_breaks_off() -> None:
    def app(_environ: object, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        raise ValueError("broke")

    with served(app) as port, connection(port) as s:
        s.sendall(GET + b"\r\n")
        data = read_all(s)
        assert data.endswith(b"5\r\nfirst\r\n")  # without the chunk that marks the end


# Clients that close only their sending side


def test_half_closed_client_gets_all_its_responses() -> None:
    started, go_on = threading.Semaphore(0), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/slow":
            started.release()
            assert go_on.wait(60)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"hi"]

    with served(app) as port, connection(port) as s:
        s.sendall(GET.replace(b"/health", b"/slow") + b"\r\n" + GET + b"\r\n")
        wait(started)
        s.shutdown(socket.SHUT_WR)
        assert ask(port, "GET", "/")[0] == 200  # so the server has seen the end of the data
        go_on.set()
        assert statuses(read_all(s)) == [200, 200]


def test_half_closed_client_gets_errors() -> None:
    with running(FakeDecoder()) as r:
        for data, status in (
            (GET + b"bad\r\n\r\n", 400), (with_length(b"{"), 400),
            (GET.replace(b"health", b"nope") + b"\r\n", 404),
        ):  # fmt: skip
            with connection(r.port) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                assert statuses(read_all(s)) == [status]


@pytest.mark.parametrize("stream", [False, True])
def test_completion_of_a_half_closed_client_is_cancelled_with_an_error(stream: bool) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    with running(decoder) as r, connection(r.port) as s:
        send(s, {"prompt": "x", "max_tokens": 200, "stream": stream})
        wait(r.runner.submitted)
        decoder.let(2)
        s.shutdown(socket.SHUT_WR)
        wait(r.runner.cancelled)
        data = read_all(s)
        assert statuses(data) == [200 if stream else 499]
        assert b"the client closed its sending side" in data
        assert data.endswith(b"0\r\n\r\n" if stream else b"}")


def test_fully_closed_connection_is_forgotten() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with running(decoder) as r:
        with connection(r.port) as s:
            send(s, {"prompt": "x", "max_tokens": 200})
            wait(r.runner.submitted)
        wait(r.runner.cancelled)
        while r.server._server.active_channels:
            pass
