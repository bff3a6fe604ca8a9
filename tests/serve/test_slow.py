"""Clients that send too much or never finish a request, with raw sockets and a simulated clock."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import pytest

from serve.http.channel import LATE_SECONDS
from serve.http.server import HttpServer
from serve.settings import MAX_HEADER_BYTES
from tests.support.fakes import FakeDecoder
from tests.support.serving import connection, read_all, running, wait


def test_oversized_headers_return_431() -> None:
    with running(FakeDecoder()) as r:
        begin, end = b"GET /health HTTP/1.0\r\nX-Long: ", b"\r\n\r\n"
        with connection(r.port) as s:
            s.sendall(begin + b"x" * (MAX_HEADER_BYTES - len(begin + end) - 1) + end)
            assert b" 200 " in read_all(s).split(b"\r\n")[0]
        with connection(r.port) as s:
            s.sendall(begin + b"x" * (MAX_HEADER_BYTES - len(begin)))  # without `end`
            answer = read_all(s)
        assert b" 431 " in answer.split(b"\r\n")[0]
        assert b'{"error":' in answer


def read_one(s: socket.socket) -> bytes:
    """Read one JSON response from a connection that stays open."""
    answer = b""
    while not answer.endswith(b"}"):
        more = s.recv(65536)
        assert more, answer
        answer += more
    return answer


class Clock:
    """Clock that a test moves forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = threading.Semaphore(0)

    def __call__(self) -> float:
        self.asked.release()
        return self.now

    def forward(self, seconds: float, server: HttpServer) -> None:
        """Move the clock forward and let the server check its clients."""
        self.now += seconds
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(2):  # the first check may have begun before
            server._wake()
            wait(self.asked)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "beginning",
    [
        HEAD[:9], b"GET /health HTTP/1.1\r\nX: y\r\n", HEAD, HEAD + b"Content-Length: 1000\r\n\r\n" + b'{"prompt":',
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n500\r\n",
        HEAD + b"Content-Length: 9000000\r\n\r\n",  # too large: discarded, but not forever
    ],
)  # fmt: skip
def test_client_that_never_finishes_its_request_is_disconnected(beginning: bytes) -> None:
    clock = Clock()
    with running(FakeDecoder(), clock=clock) as r, connection(r.port) as s:
        s.sendall(beginning)
        s.settimeout(0.02)
        answer = None
        while answer is None:
            clock.forward(LATE_SECONDS / 4, r.server)
            try:
                answer = s.recv(1)
            except TimeoutError:
                with suppress(ConnectionError):
                    s.sendall(b"x")  # single bytes do not extend the limit
            except ConnectionError:
                answer = b""
        assert answer == b""
        assert not r.runner.seen


def test_slow_client_within_the_limit_is_served() -> None:
    clock = Clock()
    body = b'{"prompt":"well?","max_tokens":1}'
    with running(FakeDecoder(), clock=clock) as r, connection(r.port) as s:
        for _ in range(3):  # the limit starts again with each request
            for piece in (HEAD, b"Content-Length: %d\r\n\r\n" % len(body), body[:5], body[5:]):
                s.sendall(piece)
                clock.forward(LATE_SECONDS / 5, r.server)
            assert b" 200 " in read_one(s).split(b"\r\n")[0]
            clock.forward(10 * LATE_SECONDS, r.server)  # idle, between requests


def test_waiting_for_an_answer_does_not_count_as_a_late_request() -> None:
    clock = Clock()
    body = b'{"prompt":"well?","max_tokens":1}'
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with running(decoder, clock=clock) as r, connection(r.port) as s:
        s.sendall(request + request[:-5])
        wait(r.runner.submitted)
        for _ in range(3):
            clock.forward(LATE_SECONDS, r.server)
        decoder.open_gate()
        assert b" 200 " in read_one(s).split(b"\r\n")[0]
        clock.forward(LATE_SECONDS / 2, r.server)
        s.sendall(request[-5:])
        assert b" 200 " in read_one(s).split(b"\r\n")[0]
