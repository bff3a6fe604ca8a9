"""Framing of requests over real sockets: lengths, chunks, pipelining and incomplete requests (see `test_hostile`)."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from waitress.adjustments import Adjustments

from serve.http.channel import LATE_SECONDS, Parser
from serve.settings import MAX_BODY_BYTES
from tests.support.fakes import TalkingDecoder
from tests.support.serving import ask, connection, read_all, running, served, wait
from tests.support.wire import BODY, CHUNKED, GET, POST, Answers, answer, statuses, with_length


def status_unless_closed(port: int, parts: list[bytes]) -> int | None:
    """Return the status of the response; None if the server closes the connection before all parts are sent."""
    with connection(port) as s:
        try:
            for part in parts:
                s.sendall(part)
            return answer(s)[0]
        except ConnectionError:
            return None


@pytest.mark.parametrize("data", [GET + b"X: %s\r\n\r\n", b"GET /%s HTTP/1.1\r\n\r\n"])
def test_oversized_headers_are_refused(port: int, data: bytes) -> None:
    assert status_unless_closed(port, [data % (b"a" * 300_000)]) in (None, 431)


def test_endless_chunked_body_is_refused(port: int) -> None:
    endless = [CHUNKED] + [b"10000\r\n" + b" " * 65536 + b"\r\n"] * 1000
    assert status_unless_closed(port, endless) in (None, 413)


@pytest.mark.parametrize("size", [b"F" * 15, b"F" * 1000])
def test_chunk_of_huge_size_is_refused(port: int, size: bytes) -> None:
    endless = [CHUNKED + size + b"\r\n"] + [b" " * 65536] * 1000
    assert status_unless_closed(port, endless) in (None, 413)


def test_body_in_one_byte_chunks_is_accepted(port: int) -> None:
    body = b'{"max_tokens":1,"prompt":"' + b"x" * 100_000 + b'"}'
    with connection(port) as s:
        s.sendall(
            CHUNKED + b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n" + GET + b"\r\n"
        )
        answers = Answers(s)
        assert answers.next()[0] == 200
        assert answers.next()[0] == 200  # the next request begins after the last chunk


@pytest.mark.parametrize(
    "data", [GET + b"\r\n", with_length(BODY), CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n"]
)
def test_request_sent_byte_by_byte_is_accepted(port: int, data: bytes) -> None:
    with connection(port) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            s.sendall(bytes([byte]))
        assert answer(s)[0] == 200
        s.sendall(GET + b"\r\n")
        assert answer(s)[0] == 200


def test_pipelined_requests_are_all_answered_in_order(port: int) -> None:
    with connection(port) as s:
        asked = [b"GET /v1/models/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % i for i in range(200)]
        s.sendall(b"".join(asked))
        answers = Answers(s)
        for i in range(200):
            status, body = answers.next()
            assert status == 404
            assert f"'{i}'" in json.loads(body)["error"]["message"]


def test_requests_after_a_malformed_one_are_not_answered(port: int) -> None:
    with connection(port) as s:
        s.sendall(GET + b"\r\n" + GET + b"bad\r\n\r\n" + GET + b"\r\n")
        assert statuses(read_all(s)) == [200, 400]


def test_refused_body_does_not_affect_pipelined_requests(port: int) -> None:
    with connection(port) as s:
        s.sendall(with_length(b'{"prompt":7}') + with_length(b"{") + with_length(BODY))
        answers = Answers(s)
        assert [answers.next()[0] for _ in range(3)] == [400, 400, 200]


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
FRAMES: dict[str, bytes] = {
    "a length before chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    % (5 + len(SMUGGLED)),
    "chunks before a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a transfer coding after a tab": b"Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
    "a transfer coding in capital letters": b"Content-Length: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n",
    "chunked after an unknown coding": b"Content-Length: 5\r\nTransfer-Encoding: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a transfer coding on a folded line": b"Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a chunk with a wrong size": b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_ambiguous_framing_does_not_allow_smuggling(port: int, frame: bytes) -> None:
    with connection(port) as s:
        s.sendall(POST + frame + SMUGGLED)
        if b"folded" in frame or b" Transfer" in frame:  # part of another header: the length counts
            assert answer(s)[0] == 400
            return
        assert statuses(read_all(s)) == [400]


def test_incomplete_body_does_not_block_other_clients(port: int) -> None:
    with connection(port) as s:
        s.sendall(POST + b"Content-Length: 1000\r\n\r\n" + BODY)
        assert ask(port, "GET", "/health")[0] == 200


def test_expect_continue_works_while_a_request_runs() -> None:
    gate = threading.Semaphore(0)
    decoder = TalkingDecoder(gate=gate)
    with running(decoder) as r, connection(r.port) as s:
        s.sendall(with_length(BODY))
        wait(r.runner.submitted)
        s.sendall(with_length(BODY, POST + b"Expect: 100-continue\r\n"))
        s.sendall(GET + b"\r\n")
        decoder.open_gate()
        answers = Answers(s)
        assert [answers.next()[0] for _ in range(3)] == [200, 200, 200]


def test_disconnect_at_any_byte_is_harmless(port: int) -> None:
    for data in (with_length(BODY), CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n"):
        for n in range(len(data)):
            with connection(port) as s:
                s.sendall(data[:n])
    assert ask(port, "GET", "/health")[0] == 200


def test_many_incomplete_requests_do_not_block_others(port: int) -> None:
    with ExitStack() as stack:
        for n in range(200):
            s = stack.enter_context(connection(port))
            s.sendall(
                (GET + b"\r\n", CHUNKED + b"5\r\n", POST + b"Content-Length: 9\r\n\r\n")[n % 3][:-1]
            )
        assert ask(port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200


def hello(environ: dict[str, Any], start_response: Any) -> Sequence[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"hi"]


@pytest.mark.parametrize("begun", [GET, POST + b"Content-Length: 99\r\n\r\n", CHUNKED, b"\r"])
def test_incomplete_request_is_closed_after_a_timeout(begun: bytes) -> None:
    # This clock advances at each reading.
    ticks = itertools.count(0.0, LATE_SECONDS / 2)
    with served(hello, clock=lambda: next(ticks)) as port, connection(port) as s:
        s.sendall(begun)
        for _ in range(4):  # each request makes the server check its connections
            assert ask(port, "GET", "/")[0] == 200
        assert read_all(s) == b""


WORDS = (
    b"\r\n", b"\r\n\r\n", b"\0", b":", b" ", b"Content-Length: ", b"Transfer-Encoding: chunked", b"-1",
    b"Expect: 100-continue",
    b"HTTP/1.0", b"POST", b"0\r\n", b"ffffffff", b"{", b"\xff", b"http://[", b"%", b"/v1/completions",
    b"\r", b"\n", b"\t",
)  # fmt: skip


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Return the data with randomly changed, removed, repeated and inserted bytes."""
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        data = chance.choice(
            (
                data[:at] + data[at + 1 :], data[:at] + data[end:], data[:at] + data[at:end] * 2 + data[end:],
                data[:at] + chance.choice(WORDS) + data[at:],
                data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
            )
        )  # fmt: skip
    return data


WHOLE = (
    with_length(BODY) + GET + b"\r\n",
    CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n" + with_length(BODY),
    with_length(BODY, POST + b"Expect: 100-continue\r\nConnection: keep-alive\r\n"),
)


def test_parser_accepts_or_refuses_mutated_requests() -> None:
    chance = random.Random(11)
    adjustments = Adjustments(max_request_body_size=MAX_BODY_BYTES)
    ends = set()
    for i in range(5000):
        data = mutated(chance, WHOLE[i % 3])
        p = Parser(adjustments)
        while data:
            piece = data[: chance.randint(1, len(data))]
            n = p.received(piece)
            assert n or p.completed, "the parser consumes nothing and would loop forever"
            data = data[n:]
            if p.completed:
                assert not p.expect_continue
                ends.add(p.error.code if p.error else 200)
                p.close()
                p = Parser(adjustments)
        p.close()
    assert {200, 400} <= ends <= {200, 400, 413}


def test_mutated_requests_do_not_break_the_server(port: int) -> None:
    chance = random.Random(7)
    for i in range(300):
        data = mutated(chance, WHOLE[i % 3])
        with connection(port) as s:
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                found = read_all(s)
            except ConnectionError:
                continue
            assert all(n < 500 for n in statuses(found)), (data, found)
    assert ask(port, "GET", "/health")[0] == 200
