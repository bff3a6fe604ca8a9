"""Limits on connections: idle connections do not block new clients."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serve.http import channel as limits
from serve.http.channel import dispensable, most_connections
from tests.support.fakes import FakeDecoder
from tests.support.serving import ask, connection, running, send, wait

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
