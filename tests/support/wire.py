"""Raw requests and their responses, and a server that must work after them."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fakes import TalkingDecoder
from tests.support.serving import ask, connection, running

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
BODY = b'{"prompt":"x","max_tokens":1}'
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def attacked() -> Iterator[int]:
    """Yield the port of a server; check afterwards that the server works and is idle."""
    with running(TalkingDecoder()) as r:
        yield r.port
        assert ask(r.port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        assert r.runner.wait_until_idle(60)
        assert (r.runner.n_open, r.runner.n_restarts, r.runner.failure) == (0, 0, None)
    assert not r.runner.engine.has_work
    r.runner.engine.check_integrity()


def answer(s: socket.socket) -> tuple[int, bytes]:
    """Return the status and body of the next response on a connection."""
    response = http.client.HTTPResponse(s)
    response.begin()
    return response.status, response.read()


class Answers:
    """Reader of several responses on one connection, even if they arrive in one read."""

    def __init__(self, s: socket.socket) -> None:
        self._read = Unclosed(socket.SocketIO(s, "r"))

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._read

    def next(self) -> tuple[int, bytes]:
        response = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        response.begin()
        return response.status, response.read()


class Unclosed(io.BufferedReader):
    """Reader that stays open after a response, so that buffered bytes of the next one are kept."""

    def close(self) -> None:
        pass


def said(port: int, data: bytes) -> tuple[int, bytes]:
    """Send raw bytes and return the status and body; check that an error is JSON."""
    with connection(port) as s:
        s.sendall(data)
        status, body = answer(s)
    if status >= 400:
        assert json.loads(body)["error"]
    return status, body


def with_length(body: bytes, head: bytes = POST) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def statuses(data: bytes) -> list[int]:
    return [int(n) for n in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]
