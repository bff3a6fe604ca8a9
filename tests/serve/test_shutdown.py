"""Shutdown of the server: grace period, cancelled requests, and signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.settings import Limits
from tests.support.fakes import FakeDecoder
from tests.support.serving import connection, read_all, running, send, wait

ROOT = Path(__file__).parents[2]


def get(c: http.client.HTTPConnection, path: str) -> tuple[int, Any]:
    c.request("GET", path)
    response = c.getresponse()
    return response.status, json.loads(response.read())


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def n_open(c: http.client.HTTPConnection) -> int:
    health = get(c, "/health")[1]
    return int(health["running"] + health["waiting"])


def test_shutdown_finishes_open_requests_and_refuses_new_ones() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(1), n_batch=64)
    with (
        running(decoder, limits=Limits(grace=1000)) as r,
        closing(http.client.HTTPConnection("127.0.0.1", r.port, timeout=60)) as idle,
        connection(r.port) as s,
    ):
        assert get(idle, "/health")[0] == 200
        send(s, {"prompt": "a", "max_tokens": 3, "stream": True})
        assert b"200 OK" in s.recv(65536)
        assert r.shutdown.begin()
        assert not r.shutdown.begin()
        status, health = get(idle, "/health")
        assert (status, health["status"]) == (503, "draining")
        idle.request("POST", "/v1/completions", json.dumps({"prompt": "b"}))
        refused = idle.getresponse()
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert b"shutting down" in refused.read()
        while accepts(r.port):
            pass  # until the server's thread has closed its port
        decoder.let(5)
        answer = read_all(s)
        assert b'"finish_reason":"length"' in answer
        assert b"[DONE]" in answer
        r.thread.join(60)
        assert not r.thread.is_alive()
        r.runner._thread.join(60)
        assert r.runner.engine_closed


def test_requests_open_after_the_grace_period_end_with_an_error() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(1), n_batch=64)
    with running(decoder, limits=Limits(grace=0)) as r, connection(r.port) as s:
        with connection(r.port) as plain:
            send(s, {"prompt": "a", "max_tokens": 200, "stream": True})
            assert b"200 OK" in s.recv(65536)
            send(plain, {"prompt": "b", "max_tokens": 200})
            wait(r.runner.submitted)
            wait(r.runner.submitted)
            r.shutdown.begin()
            wait(r.runner.stopped)
            decoder.let()  # the token being computed
            assert b"the server is shutting down" in read_all(s)
            answer = plain.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 1" in answer
        r.thread.join(60)
        assert not r.thread.is_alive()


SERVER = """
import sys, threading
from pathlib import Path
from serve.engine import Engine
from serve.http.server import bind, run
from serve.models import ModelPool, PooledModel
from serve.models.loading import host
from serve.models.status import ModelInfo
from serve.settings import Limits, ServerOptions
from tests.support.fakes import FakeDecoder

decoder = FakeDecoder(gate=threading.Semaphore(0))
options = ServerOptions(Path("none"), limits=Limits(grace=1000))
info = ModelInfo("fake", decoder.n_ctx, decoder.n_vocab, 0)

def load():
    if "wait" in sys.argv:
        print("loading", flush=True)
        sys.stdin.readline()
    return host(Engine(decoder))

models = ModelPool([PooledModel(info, 1, load)], memory=1)
run(models, bind("127.0.0.1", 0), options, lambda line: print(line, flush=True))
print("ended")
"""


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a server in a separate process."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as p:  # fmt: skip
        try:
            yield p
        finally:
            p.kill()


def port_of(p: subprocess.Popen[str]) -> int:
    """Wait until the server is ready and return its port."""
    assert p.stdout
    line = next(line for line in p.stdout if line.startswith("ready"))
    assert next(p.stdout).startswith("page")
    assert next(p.stdout).startswith("try")
    return int(line.split("127.0.0.1:")[1].split()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_an_idle_server(number: signal.Signals) -> None:
    with process() as p:
        assert port_of(p)
        p.send_signal(number)
        out, err = p.communicate(timeout=100)
        assert (p.returncode, out) == (0, "ended\n"), err
        assert "Traceback" not in err


def test_second_signal_ends_the_server_without_waiting_for_requests() -> None:
    with process() as p:
        port = port_of(p)
        with (
            connection(port) as s,
            closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as idle,
        ):
            assert get(idle, "/health")[0] == 200
            send(s, {"prompt": "a", "max_tokens": 5})
            while not n_open(idle):
                pass  # until the request has arrived: the decoder never computes it
            p.send_signal(signal.SIGTERM)
            while get(idle, "/health")[1]["status"] != "draining":
                pass
            p.send_signal(signal.SIGTERM)
            out, err = p.communicate(timeout=100)
        assert (p.returncode, out) == (128 + signal.SIGTERM, ""), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_loading_ends_the_server_after_the_load(number: signal.Signals) -> None:
    """Check that the server waits for the load, which cannot be interrupted, and never prints "ready"."""
    with process("wait") as p:
        assert p.stdout
        assert p.stdout.readline() == "loading\n"
        p.send_signal(number)
        out, err = p.communicate("go on\n", timeout=100)
    assert (p.returncode, out) == (0, "ended\n"), err
    assert "Traceback" not in err


def test_second_signal_ends_the_server_without_waiting_for_a_load() -> None:
    with process("wait") as p:
        assert p.stdout
        assert p.stdout.readline() == "loading\n"
        while p.poll() is None:  # two signals sent at once may arrive as one
            p.send_signal(signal.SIGTERM)
        assert p.returncode == 128 + signal.SIGTERM
