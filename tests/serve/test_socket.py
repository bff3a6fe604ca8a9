"""The server on real sockets, with waitress and the openai client. No test sleeps."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from serve.http.channel import MAX_DISCARDED_BYTES, STUCK_SECONDS, WHEN_GONE, Parser
from serve.http.server import HttpServer, bind
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import ask, connection, read_all, running_server, send, served, wait
from turbopilot.base.errors import ServeError

HUNDRED_MB = 100_000_000


@contextmanager
def openai_client(server: HttpServer) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def post(server: HttpServer, body: dict[str, object]) -> tuple[int, Any]:
    status, _, data = ask(server.port, "POST", "/v1/completions", body)
    return status, json.loads(data)


def test_openai_client_completes_and_lists_models() -> None:
    with running_server(FakeDecoder(script("yes"))) as (server, _), openai_client(server) as client:
        answer = client.completions.create(
            model="x", prompt="well?", n=2, stop=["zz"], seed=1, suffix=None
        )
        assert [c.text for c in answer.choices] == ["yes", "yes"]
        assert [c.finish_reason for c in answer.choices] == ["stop", "stop"]
        assert answer.usage
        assert answer.usage.total_tokens == 5 + 6
        assert [m.id for m in client.models.list()] == ["fake"]
        assert client.models.retrieve("fake").id == "fake"


def test_stream_arrives_token_by_token() -> None:
    decoder = FakeDecoder(script("yes"), gate=threading.Semaphore(0))
    with running_server(decoder) as (server, _), openai_client(server) as client:
        decoder.let()  # the response headers are sent with the first token
        with client.completions.create(model="x", prompt="well?", stream=True) as stream:
            chunks = iter(stream)
            for letter in "yes":
                assert next(chunks).choices[0].text == letter  # would hang if it were held back
                assert len(decoder.batches) == len("yes"[: "yes".index(letter) + 1])
                decoder.let()
            assert next(chunks).choices[0].finish_reason == "stop"
            assert list(chunks) == []


@pytest.mark.parametrize("stream", [True, False])
def test_disconnected_client_frees_the_engine(stream: bool) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    with running_server(decoder) as (server, runner):
        with connection(server.port) as s:
            send(s, {"prompt": "first", "max_tokens": 200, "stream": stream})
            wait(runner.submitted)
            decoder.let(2)
            if stream:
                assert b"200 OK" in s.recv(65536)
        wait(runner.cancelled)
        decoder.let()  # the token being computed
        decoder.let(3)
        status, answer = post(server, {"prompt": "second", "max_tokens": 3})
        assert status == 200
        assert answer["usage"]["completion_tokens"] == 3
        # Of the 200 tokens: two were let through, one was being computed, one may follow before the cancellation.
        assert len(decoder.batches) <= 2 + 2 + 3


def test_queued_request_of_a_disconnected_client_is_dropped() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    with running_server(decoder) as (server, runner), ThreadPoolExecutor() as pool:
        first = pool.submit(post, server, {"prompt": "first", "max_tokens": 2})
        wait(runner.submitted)
        with connection(server.port) as s:
            send(s, {"prompt": "queued", "max_tokens": 200})
            wait(runner.submitted)
        wait(runner.cancelled)
        decoder.let(2)
        assert first.result()[0] == 200
        decoder.let(4)
        assert post(server, {"prompt": "third", "max_tokens": 4})[0] == 200
        assert len(decoder.batches) == 2 + 4


def test_second_request_is_queued_and_then_served() -> None:
    decoder = FakeDecoder(script("yes"), gate=threading.Semaphore(0), n_batch=64)
    with running_server(decoder) as (server, runner), ThreadPoolExecutor() as pool:
        body: dict[str, object] = {"prompt": "well?", "max_tokens": 3}
        both = [pool.submit(post, server, body) for _ in range(2)]
        wait(runner.submitted)
        wait(runner.submitted)
        health = json.loads(ask(server.port, "GET", "/health")[2])  # answered while both wait
        assert health["running"] + health["waiting"] == 2
        assert not any(f.done() for f in both)
        decoder.let(6)
        for f in both:
            status, answer = f.result()
            assert (status, answer["choices"][0]["text"]) == (200, "yes")


def test_full_queue_returns_503_with_retry_after() -> None:
    gate = threading.Semaphore(0)
    with (
        running_server(FakeDecoder(gate=gate), max_open=1) as (server, runner),
        ThreadPoolExecutor() as pool,
        openai_client(server) as client,
    ):
        first = pool.submit(post, server, {"prompt": "a", "max_tokens": 1})
        wait(runner.submitted)
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="x", prompt="b")
        assert caught.value.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "2"
        gate.release()
        assert first.result()[0] == 200
        gate.release(2)
        assert client.completions.create(model="x", prompt="b", max_tokens=2).choices


def test_openai_client_gets_400_for_bad_input() -> None:
    with running_server(FakeDecoder()) as (server, _), openai_client(server) as client:
        for param, value in (("temperature", -3), ("max_tokens", "many")):
            fields: Any = {"model": "x", "prompt": "y", param: value}
            with pytest.raises(openai.BadRequestError, match=f"{param} must be") as caught:
                client.completions.create(**fields)
            assert caught.value.param == param
        with pytest.raises(openai.BadRequestError, match="prompt must be"):
            client.completions.create(model="x", prompt=7)  # type: ignore[call-overload]
        with pytest.raises(openai.NotFoundError):
            client.post("/nope", body={}, cast_to=object)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"POST /v1/completions HTTP/1.0\r\nContent-Length: 1\r\n\r\n{", "not valid JSON"),
        (b"\x16\x03\x01 hello\r\n\r\n", ""),  # not HTTP
    ],
)
def test_malformed_request_is_refused_in_json(data: bytes, words: str) -> None:
    with running_server(FakeDecoder()) as (server, _), connection(server.port) as s:
        s.sendall(data)
        head, body = read_all(s).split(b"\r\n\r\n", 1)
        assert b"400" in head
        assert words in json.loads(body)["error"]["message"]
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_100_mb_body_returns_413_after_the_client_sent_it() -> None:
    with running_server(FakeDecoder()) as (server, _):
        c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        chunk = b" " * 1_000_000
        c.putrequest("POST", "/v1/completions")
        c.putheader("Content-Length", str(HUNDRED_MB))
        c.endheaders()
        for _ in range(HUNDRED_MB // len(chunk)):
            c.send(chunk)
        response = c.getresponse()
        assert response.status == 413
        assert "Too Large" in json.loads(response.read())["error"]["message"]
        c.close()
        assert post(server, {"prompt": "x", "max_tokens": 1})[0] == 200


def test_expect_100_continue_of_a_large_body_returns_413_at_once() -> None:
    with running_server(FakeDecoder()) as (server, _), connection(server.port) as s:
        head = f"POST /api/generate HTTP/1.1\r\nContent-Length: {HUNDRED_MB}\r\n"
        s.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = read_all(s)
        assert answer.startswith(b"HTTP/1.1 413")
        assert isinstance(json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"], str)


def parser() -> Parser:
    return Parser(
        SimpleNamespace(
            max_request_header_size=2**18, max_request_body_size=2**23, url_scheme="http",
            inbuf_overflow=2**19,
        )
    )  # fmt: skip


def test_oversized_body_is_discarded() -> None:
    p = parser()
    head = f"POST / HTTP/1.1\r\nContent-Length: {HUNDRED_MB}\r\n\r\n".encode()
    assert p.received(head) == len(head)
    data, left = b"x" * 65536, HUNDRED_MB
    while left:
        assert not p.completed
        left -= p.received(data[:left])
    assert p.completed
    assert len(p.body_rcv) == 0
    assert p.received(b"GET / HTTP/1.1\r\n") == 0


def test_absurd_content_length_is_rejected_without_reading_the_body() -> None:
    p = parser()
    p.received(f"POST / HTTP/1.1\r\nContent-Length: {MAX_DISCARDED_BYTES + 1}\r\n\r\n".encode())
    assert p.completed
    assert p.error


def test_error_for_a_port_in_use_names_the_port() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port}") as caught:
            bind("127.0.0.1", port)
    assert caught.value.exit_code == 8
    assert "-p" in caught.value.hint


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 80), ("127.0.0.1", 99999)])
def test_bind_to_an_invalid_address_raises_serve_error(host: str, port: int) -> None:
    with pytest.raises(ServeError):
        bind(host, port)


@pytest.mark.parametrize("reset", [False, True])
def test_closed_connection_cancels_without_poll(timeouts: list[float | None], reset: bool) -> None:
    with running_server(FakeDecoder(gate=threading.Semaphore(0))) as (server, runner):
        with connection(server.port) as s:
            send(s, {"prompt": "x", "max_tokens": 200})
            wait(runner.submitted)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait(runner.cancelled)  # although no token comes
        assert set(timeouts) <= {None}


def test_pipelined_requests_are_answered_in_order_and_dropped_together() -> None:
    decoder = FakeDecoder(script("yes"), gate=threading.Semaphore(0), n_batch=64)
    with running_server(decoder) as (server, runner):
        with connection(server.port) as s:
            for _ in range(3):
                send(s, {"prompt": "well?", "max_tokens": 1})
            wait(runner.submitted)
            decoder.let()
            wait(runner.submitted)  # the second, once the first is answered
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
        wait(runner.cancelled)
        decoder.open_gate()
        assert post(server, {"prompt": "well?"})[0] == 200
        assert len(runner.seen) == 3  # the third of the pipeline never began


def test_client_that_never_reads_its_stream_is_disconnected() -> None:
    gone, closed = threading.Event(), threading.Event()
    # Each reading of this clock is ten seconds later than the previous one.
    clock = itertools.count(0.0, 10.0)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[WHEN_GONE](gone.set)
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            for _ in range(1000):
                yield bytes(2**20)  # writes wait when much more than 16 MiB has not been read
        finally:
            closed.set()

    with served(app, clock=lambda: next(clock)) as port, connection(port) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert gone.wait(60)
        assert closed.wait(60)


def test_connection_with_an_unread_answer_is_closed() -> None:
    gone = threading.Event()
    answered = threading.Event()
    now = [0.0]

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        environ[WHEN_GONE](gone.set)
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(12):
            # In all, more than the socket buffers hold and less than the limit at which writes wait.
            yield bytes(2**20)
        answered.set()

    with served(app, clock=lambda: now[0]) as port, connection(port) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answered.wait(60)
        while not gone.wait(0.01):
            now[0] += STUCK_SECONDS / 2  # time passes while nothing is read


def test_callback_for_a_disconnected_client_is_called_at_once() -> None:
    kept, dropped = threading.Event(), threading.Event()
    with running_server(FakeDecoder()) as (server, _), connection(server.port) as s:
        send(s, {"prompt": "x", "max_tokens": 1})
        assert s.recv(65536)
        (channel,) = server._server.active_channels.values()
        channel.when_gone(dropped.set)()  # withdrawn at once
        channel.when_gone(kept.set)
        s.shutdown(socket.SHUT_WR)
        assert kept.wait(60)
        late = threading.Event()
        channel.when_gone(late.set)
        assert late.is_set()
        assert not dropped.is_set()
