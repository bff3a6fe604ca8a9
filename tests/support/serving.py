"""Service and server on loopback with a fake decoder; tests can wait for their events."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from serve.adapters import AdapterScales
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.http.server import HttpServer, bind
from serve.http.shutdown import Shutdown
from serve.models import ModelPool, PooledModel
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.request import GenerationRequest
from serve.runner import EngineRunner, Generation
from serve.security_options import SecurityOptions
from serve.settings import Defaults, Limits, TextOptions
from tests.support.fakes import FakeDecoder, script

ROOT = Path(__file__).parents[2]
# Completions of a script's text in full, after the whole prompt.
AS_GIVEN = TextOptions(heals=False, ends_loops=False, next_edit="sweep")


class WatchedRunner(EngineRunner):
    """Runner with semaphores for its events, so that tests need no sleeps."""

    def __init__(self, engine: Engine, *, max_open: int = 65, **kwargs: Any) -> None:
        super().__init__(engine, max_open=max_open, **kwargs)
        self.engine = engine
        self.engine_closed = False
        close = engine.close

        def closed() -> None:
            self.engine_closed = True
            close()

        engine.close = closed  # type: ignore[method-assign]
        self.submitted = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.stopped = threading.Semaphore(0)
        self.seen: list[GenerationRequest] = []

    def ask(self, requests: Sequence[GenerationRequest], *, whole: bool = False) -> Generation:
        generation = Generation(self, requests, whole=whole)
        self.submit(generation)
        return generation

    def submit(self, generation: Generation) -> None:
        super().submit(generation)
        self.seen += generation.requests
        self.submitted.release()

    def request_stop(self) -> None:
        super().request_stop()
        self.stopped.release()

    def cancel(self, generation: Generation) -> None:
        super().cancel(generation)
        self.cancelled.release()


def wait(semaphore: threading.Semaphore) -> None:
    """Wait for an expected event; the timeout only prevents a hang of a failing test."""
    assert semaphore.acquire(timeout=60)


def make_service(
    decoder: FakeDecoder,
    *,
    max_open: int = 65,
    limits: Limits | None = None,
    clock: Callable[[], float] | None = None,
    text: TextOptions = AS_GIVEN,
) -> tuple[CompletionService, WatchedRunner]:
    options = EngineOptions(n_slots=decoder.n_seq, random_seed=0)
    if clock:
        engine = Engine(decoder, options, clock)
        runner = WatchedRunner(engine, max_open=max_open, clock=clock)
    else:
        runner = WatchedRunner(Engine(decoder, options), max_open=max_open)
    model = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, 1_700_000_000)
    return CompletionService(runner, decoder, model, limits, text), runner


def pool_of(service: CompletionService, adapters: AdapterScales | None = None) -> ModelPool:
    """Return a pool with one loaded model."""
    scales = adapters or AdapterScales()
    pool = ModelPool([PooledModel(service.model, 1, lambda: service, adapters=scales)], memory=1)
    with pool.use(""):
        return pool


@contextmanager
def flask_client(
    security: SecurityOptions | None = None,
    decoder: FakeDecoder | None = None,
    *,
    defaults: Defaults | None = None,
    **kwargs: Any,
) -> Iterator[FlaskClient]:
    """Run the application without HTTP; its default decoder completes every prompt with "yes"."""
    decoder = decoder or FakeDecoder(script("yes"))
    service, runner = make_service(decoder, **kwargs)
    runner.start()
    try:
        yield create_app(pool_of(service), defaults, security=security).test_client()
    finally:
        decoder.open_gate()
        runner.close()


MakeClient = Callable[..., FlaskClient]


@contextmanager
def served(app: Callable[..., Any], **options: Any) -> Iterator[int]:
    """Serve a WSGI application in a thread; yield the port."""
    server = HttpServer(app, bind("127.0.0.1", 0), **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join()


class Running:
    """Running server; `shutdown` ends it like a signal."""

    def __init__(
        self,
        server: HttpServer,
        runner: WatchedRunner,
        shutdown: Shutdown,
        thread: threading.Thread,
    ) -> None:
        self.server, self.runner, self.shutdown, self.thread = server, runner, shutdown, thread
        self.port = server.port


@contextmanager
def running(
    decoder: FakeDecoder,
    *,
    max_open: int = 65,
    limits: Limits | None = None,
    security: SecurityOptions | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Running]:
    """Run a real server on a free loopback port."""
    limits = limits or Limits()
    service, runner = make_service(decoder, max_open=max_open, limits=limits)
    pool = pool_of(service)
    server = HttpServer(create_app(pool, security=security), bind("127.0.0.1", 0), clock=clock)
    shutdown = Shutdown(pool, refuse=server.refuse, leave=server.stop, grace=limits.grace)
    thread = threading.Thread(target=server.run, name="http")
    runner.start()
    thread.start()
    try:
        yield Running(server, runner, shutdown, thread)
    finally:
        runner.request_stop()
        decoder.open_gate()
        runner.close()
        server.stop()
        thread.join()


@contextmanager
def running_server(
    decoder: FakeDecoder, *, max_open: int = 65, limits: Limits | None = None
) -> Iterator[tuple[HttpServer, WatchedRunner]]:
    """Run a real server and yield the server and its runner."""
    with running(decoder, max_open=max_open, limits=limits) as r:
        yield r.server, r.runner


def serve_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "turbopilot", "serve", *arguments]


def run_serve(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `turbopilot serve` in a process that must end by itself."""
    return subprocess.run(
        serve_command(*arguments), capture_output=True, text=True, cwd=cwd, check=False, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@contextmanager
def serve_process(
    *arguments: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run `turbopilot serve` in a process, which is killed if it has not ended by the end of the block."""
    with subprocess.Popen(
        serve_command("--port", "0", *arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=env,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()  # else a failed assertion would wait for the server forever


def wait_until_ready(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return the output of `turbopilot serve` until it is ready, and its port."""
    assert process.stderr
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("try "):
            break
    return said, int(said.split("http://127.0.0.1:")[1].split()[0])


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        yield s


def send(
    s: socket.socket, body: dict[str, object], path: str = "/v1/completions", headers: str = ""
) -> None:
    data = json.dumps(body).encode()
    s.sendall(
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )


def read_all(s: socket.socket) -> bytes:
    return b"".join(iter(lambda: s.recv(65536), b""))


def ask(
    port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request and return (status, headers, body)."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        c.request(method, path, None if body is None else json.dumps(body), headers or {})
        response = c.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        c.close()
