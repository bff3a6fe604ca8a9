"""What no honest client sends, over real sockets: it is refused or answered, and the server stays well.

Never status 500, never a connection that waits for ever, nothing left running, and a plain request is served after it.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from waitress.adjustments import Adjustments

from serve.http.channel import MAX_CHUNK_LINE, RECEIVE_SECONDS, Parser
from serve.http.openapi import description
from serve.http.server import HttpServer, bind
from serve.settings import MAX_BODY_BYTES, Defaults
from tests.fakes import FakeDecoder, TalkingDecoder
from tests.serving import ask, connection, read_all, running, wait

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"prompt":"x","max_tokens":1}'
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
PATHS: Any = description(Defaults())["paths"]


@contextmanager
def attacked(decoder: FakeDecoder | None = None) -> Iterator[int]:
    """The port of a server that is well afterwards."""
    with running(decoder or TalkingDecoder()) as r:
        yield r.port
        assert ask(r.port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 2})[0] == 200
        assert r.runner.wait_until_idle(60)
        assert (r.runner.n_open, r.runner.n_restarts, r.runner.failure) == (0, 0, None)
    assert not r.runner.engine.has_work
    r.runner.engine.check_integrity()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with attacked() as port:
        yield port


def answer(s: socket.socket) -> tuple[int, bytes]:
    """The next answer on a connection: its status and body."""
    response = http.client.HTTPResponse(s)
    response.begin()
    return response.status, response.read()


class Answers:
    """The answers on a connection, one by one, though several came at once."""

    def __init__(self, s: socket.socket) -> None:
        self._read = Unclosed(socket.SocketIO(s, "r"))

    def makefile(self, mode: str) -> io.BufferedReader:
        return self._read

    def next(self) -> tuple[int, bytes]:
        response = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        response.begin()
        return response.status, response.read()


class Unclosed(io.BufferedReader):
    """Holds what follows an answer, when that has been read."""

    def close(self) -> None:
        pass


def said(port: int, data: bytes) -> tuple[int, bytes]:
    """The answer to raw bytes; it is JSON where it is a refusal."""
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


MALFORMED: dict[str, bytes] = {
    "a header without a colon": GET + b"nothing\r\n\r\n",
    "a header without a name": GET + b": x\r\n\r\n",
    "a header's name with a space": GET + b"Content-Length : 0\r\n\r\n",
    "NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "NUL in a header's name": GET + b"X\0: a\r\n\r\n",
    "a line feed alone": GET + b"X: a\nY: b\r\n\r\n",
    "a carriage return alone": GET + b"X: a\rY: b\r\n\r\n",
    "a folded first header": b"GET /health HTTP/1.1\r\n X: a\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\n\r\n",
    "a method in small letters": b"get /health HTTP/1.1\r\n\r\n",
    "no such protocol": b"GET /health HTP/1.1\r\n\r\n",
    "an address that is none": b"GET http://[ HTTP/1.1\r\n\r\n",
    "an address of IPv6 that is none": b"GET http://[::x]/health HTTP/1.1\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a signed length": POST + b"Content-Length: +29\r\n\r\n" + BODY,
    "a length in hexadecimal": POST + b"Content-Length: 0x1d\r\n\r\n" + BODY,
    "a broken length": POST + b"Content-Length: 29.0\r\n\r\n" + BODY,
    "an empty length": POST + b"Content-Length:\r\n\r\n" + BODY,
    "a length of 5000 digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a length of 5000 noughts": POST + b"Content-Length: " + b"0" * 5000 + b"\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 29\r\nContent-Length: 29\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 29\r\nContent-Length: 3\r\n\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 29, 29\r\n\r\n" + BODY,
    "a length that is too small": with_length(BODY)[:-29].replace(b"29", b"5") + BODY,
    "a length and chunks": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1d\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "chunks and a length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n0\r\n\r\n"
    + BODY,
    "chunks in HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n" + BODY,
    "another coding": POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "another coding, then chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks, then another coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "a coding by another name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk's size that is none": CHUNKED + b"zz\r\nxx\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    "a signed chunk": CHUNKED + b"+1\r\nx\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    "a chunk's size with _": CHUNKED + b"1_0\r\nx\r\n0\r\n\r\n",
    "a chunk's size after a space": CHUNKED + b" 1\r\nx\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a chunk with a broken extension": CHUNKED + b'2;a="\r\n{}\r\n0\r\n\r\n',
    "a chunk's size without an end": CHUNKED + b"0" * (MAX_CHUNK_LINE + 8192),
    "a trailer without an end": CHUNKED + b"0\r\n" + b"X: y\r\n" * (MAX_CHUNK_LINE // 6 + 2000),
    "an expected length that is none": POST + b"Expect: 100-continue\r\nContent-Length: x\r\n\r\n",
    "an expected body in another coding": POST
    + b"Expect: 100-continue\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a body that is compressed": with_length(
        b"\x1f\x8b\x08\0\0\0\0\0", POST + b"Content-Encoding: gzip\r\n"
    ),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_400(port: int, data: bytes) -> None:
    assert said(port, data)[0] == 400


ODD: dict[str, tuple[bytes, set[int]]] = {
    "a whole address": (b"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n", {200}),
    "a whole address without a path": (b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", {200}),
    "HTTP/0.9": (b"GET /health\r\n\r\n", {200}),
    "no path": (b"GET HTTP/1.1\r\n\r\n", {404}),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", {200}),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {404}),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", {200}),
    "empty lines before": (b"\r\n\r\n\r\n" + GET + b"\r\n", {200}),
    "an upgrade to WebSocket": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        {400},
    ),
    "an upgrade to HTTP/2": (
        GET
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        {200},
    ),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", {404, 405}),
    "options of everything": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "NUL in the path": (b"GET /health%00 HTTP/1.1\r\n\r\n", {404}),
    "a raw NUL in the path": (b"GET /health\0 HTTP/1.1\r\n\r\n", {400, 404}),
    "no UTF-8 in the path": (b"GET /%ff%c0%80 HTTP/1.1\r\n\r\n", {404}),
    "raw bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", {400, 404}),
    "a path upwards": (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a path upwards in disguise": (b"GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a long path": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", {404}),
    "a long query": (b"GET /health?" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", {200}),
    "a long name of a model": (b"GET /v1/models/" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", {200}),
    "many headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(10_000)) + b"\r\n", {200}),
    "a header often": (GET + b"X: a\r\n" * 10_000 + b"\r\n", {200}),
    "a header with an underscore": (GET + b"Content_Length: 5\r\n\r\n", {200}),
    "a body where none is wanted": (with_length(BODY, GET), {200}),
    "an expectation without a body": (GET + b"Expect: 100-continue\r\n\r\n", {200}),
    "an expectation of an empty body": (with_length(b"", GET + b"Expect: 100-continue\r\n"), {200}),
    "an unknown expectation": (with_length(BODY, POST + b"Expect: tea\r\n"), {200, 400}),
    "a body that is expected": (with_length(BODY, POST + b"Expect: 100-continue\r\n"), {200}),
    "chunks": (
        CHUNKED + b"a\r\n" + BODY[:10] + b"\r\n13\r\n" + BODY[10:] + b"\r\n0\r\n\r\n",
        {200},
    ),
    "chunks of a byte": (
        CHUNKED + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n",
        {200},
    ),
    "chunks with extensions": (CHUNKED + b'1D;a="b;\\"c"\r\n' + BODY + b"\r\n0;d\r\n\r\n", {200}),
    "chunks with a trailer": (CHUNKED + b"1D\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n", {200}),
    "a chunk's size with noughts": (
        CHUNKED + b"0" * 1000 + b"1D\r\n" + BODY + b"\r\n0\r\n\r\n",
        {200},
    ),
    "no chunk": (CHUNKED + b"0\r\n\r\n", {400}),
}
for host in (
    b"",
    b"[",
    b"[::1",
    b"a b",
    b"\xc3\xa9",
    b"a" * 5000,
    b"x:99999",
    b"x:y",
    b"a..b",
    b"\xff",
    b"@",
):
    ODD[f"a host that is {host[:9]!r}"] = (
        b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n",
        {200, 400, 421},
    )


@pytest.mark.parametrize(("data", "wanted"), ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_answered(port: int, data: bytes, wanted: set[int]) -> None:
    assert said(port, data)[0] in wanted


def many(n: int) -> str:
    return json.dumps({str(i): 1 for i in range(n)})


DEEP = b"[" * 500 + b"]" * 500
BODIES: dict[str, tuple[bytes, int]] = {
    "10,000 stop strings": (
        b'{"prompt":"x","stop":%s}' % json.dumps([f"s{i}" for i in range(10_000)]).encode(),
        200,
    ),
    "a stop string of 1 MB": (b'{"prompt":"x","stop":"%s"}' % (b"ab" * 500_000), 200),
    "empty stop strings": (b'{"prompt":"x","stop":["","",""]}', 200),
    "half a surrogate pair in the prompt": (rb'{"prompt":"\ud800"}', 200),
    "half a pair everywhere": (
        rb'{"prompt":"\udfff","suffix":"\ud800","model":"\ud800","stop":["\udc00"],"user":"\ud800"}',
        200,
    ),
    "half a pair in logit_bias": (rb'{"prompt":"x","logit_bias":{"\ud800":1}}', 200),
    "half a pair in a field's name": (rb'{"prompt":"x","\ud800":1}', 200),
    "half a pair as a wrong value": (rb'{"prompt":"x","n":"\ud800"}', 400),
    "half a pair in a schema": (
        rb'{"prompt":"x","json_schema":{"$ref":"#/definitions/\ud800"}}',
        400,
    ),
    "half a pair in a schema's pattern": (
        rb'{"prompt":"x","json_schema":{"type":"string","pattern":"\ud800"}}',
        400,
    ),
    "half a pair in a grammar": (rb'{"prompt":"x","grammar":"root ::= \"\ud800\""}', 200),
    "half a pair in UTF-8": (b'{"prompt":"\xed\xa0\x80"}', 200),
    "NUL in the prompt": (rb'{"prompt":"a\u0000b","suffix":"\u0000"}', 200),
    "a raw NUL in the prompt": (b'{"prompt":"a\0b"}', 400),
    "no UTF-8": (b'{"prompt":"\xff\xfe"}', 400),
    "UTF-16": ('{"prompt":"x"}'.encode("utf-16"), 200),
    "a mark of UTF-8": (b'\xef\xbb\xbf{"prompt":"x"}', 200),
    "nested 100,000 deep": (b'{"prompt":"x","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "objects nested 100,000 deep": (b'{"x":' * 100_000 + b"1" + b"}" * 100_000, 400),
    "nested 500 deep": (b'{"prompt":"x","x":' + DEEP + b"}", 200),
    "a prompt that is nested 500 deep": (b'{"prompt":' + DEEP + b"}", 400),
    "a schema that is nested 500 deep": (b'{"prompt":"x","json_schema":{"x":' + DEEP + b"}}", 400),
    "1e400": (b'{"prompt":"x","temperature":1e400}', 400),
    "NaN": (b'{"prompt":"x","temperature":NaN}', 400),
    "Infinity": (b'{"prompt":"x","temperature":Infinity}', 400),
    "a number of 400 digits": (b'{"prompt":"x","temperature":1' + b"0" * 400 + b"}", 400),
    "a number of 5000 digits": (b'{"prompt":"x","seed":1' + b"0" * 5000 + b"}", 400),
    "a time of 400 digits": (b'{"prompt":"x","deadline_ms":1' + b"0" * 400 + b"}", 400),
    "a time beyond the universe": (
        b'{"prompt":"x","deadline_ms":1e308,"t_max_predict_ms":1e308}',
        200,
    ),
    "a penalty of 400 digits": (b'{"prompt":"x","presence_penalty":-1' + b"0" * 400 + b"}", 400),
    "less than nothing": (b'{"prompt":"x","max_tokens":-1}', 400),
    "more than all": (b'{"prompt":"x","max_tokens":1180591620717411303424}', 200),
    "more than all in short": (b'{"prompt":"x","max_tokens":1e300}', 200),
    "true for a number": (b'{"prompt":"x","max_tokens":true}', 400),
    "great numbers everywhere": (
        b'{"prompt":"x","top_k":1180591620717411303424,"repeat_last_n":1180591620717411303424,'
        b'"n_indent":1180591620717411303424,"seed":-1180591620717411303424,"repeat_penalty":1.5,'
        b'"temperature":1e308,"mirostat_tau":1e308,"mirostat":2}',
        200,
    ),
    "hot, and forbidden": (
        b'{"prompt":"x","temperature":1e308,"top_p":1,"logit_bias":{"97":-100,"98":false}}',
        200,
    ),
    "hot, and nearly all forbidden": (
        b'{"prompt":"x","temperature":1e308,"top_p":0.5,"typical_p":0.5,"logit_bias":'
        + json.dumps({str(i): False for i in range(250)}).encode()
        + b"}",
        200,
    ),
    "hot mirostat, forbidden": (
        b'{"prompt":"x","temperature":1e300,"mirostat":1,"logit_bias":{"98":false}}',
        200,
    ),
    "cold, but not ice": (b'{"prompt":"x","temperature":1e-300,"top_p":1}', 200),
    "everything forbidden": (
        b'{"prompt":"x","logit_bias":'
        + json.dumps({str(i): False for i in range(260)}).encode()
        + b"}",
        400,
    ),
    "a field twice": (b'{"prompt":7,"prompt":"x","n":0,"n":1}', 200),
    "4096 biases": (f'{{"prompt":"x","logit_bias":{many(4096)}}}'.encode(), 200),
    "4097 biases": (f'{{"prompt":"x","logit_bias":{many(4097)}}}'.encode(), 400),
    "100,000 biases": (f'{{"prompt":"x","logit_bias":{many(100_000)}}}'.encode(), 400),
    "a bias for 1 MB of text": (b'{"prompt":"x","logit_bias":{"%s":1}}' % (b"ab" * 500_000), 400),
    "a bias for an id of 400 digits": (
        b'{"prompt":"x","logit_bias":[[1' + b"0" * 400 + b",1]]}",
        200,
    ),
    "ids that are none": (b'{"prompt":[2147483647]}', 400),
    "a million ids": (b'{"prompt":[' + b"1," * 1_000_000 + b"1]}", 200),
    "a prompt of 7 MB": (b'{"prompt":"%s"}' % (b"x" * 7_000_000), 200),
    "an empty body": (b"", 400),
    "spaces": (b" " * 1_000_000, 400),
    "an unfinished text": (b'{"prompt":"', 400),
    "two bodies": (BODY + BODY, 400),
}


@pytest.mark.parametrize(("body", "wanted"), BODIES.values(), ids=BODIES.keys())
def test_bodies(port: int, body: bytes, wanted: int) -> None:
    if wanted == 200 and b"max_tokens" not in body and body[:1] == b"{":
        body = b'{"max_tokens":3,' + body[1:]
    assert said(port, with_length(body))[0] == wanted


def test_a_wrong_value_of_any_depth_is_refused(port: int) -> None:
    with connection(port) as s:
        for depth in range(800, 1100):  # up to what cannot be read, and what cannot be told
            s.sendall(with_length(b'{"prompt":{"x":' + b"[" * depth + b"]" * depth + b"}}"))
            assert answer(s)[0] == 400


@pytest.mark.parametrize(
    "deadline",
    [b"0", b"-1", b"1e3", b"1.5", b"\xd9\xa3", b"0" * 5000 + b"1", b"1" * 5000, b"x", b"1, 2",
     b"000000000001" + b"9" * 5000],
)  # fmt: skip
def test_a_deadline_that_is_none(port: int, deadline: bytes) -> None:
    head = POST + b"X-TurboPilot-Deadline-Ms: " + deadline + b"\r\n"
    status, body = said(port, with_length(BODY, head))
    assert status == 400
    assert json.loads(body)["error"]["param"] == "X-TurboPilot-Deadline-Ms"


def test_a_session_of_any_name(port: int) -> None:
    for name in (b"\xff\xfe", b"a" * 100_000, b'";\\'):
        assert (
            said(port, with_length(BODY, POST + b"X-TurboPilot-Session: " + name + b"\r\n"))[0]
            == 200
        )


@pytest.mark.parametrize("data", [GET + b"X: %s\r\n\r\n", b"GET /%s HTTP/1.1\r\n\r\n"])
def test_too_long_a_head_is_refused(port: int, data: bytes) -> None:
    with connection(port) as s:
        try:
            s.sendall(data % (b"a" * 300_000))
            status, _ = answer(s)
        except ConnectionError:  # it was closed while we sent
            return
    assert status == 431


def test_a_body_that_never_ends_is_cut_off(port: int) -> None:
    with connection(port) as s:
        s.sendall(CHUNKED)
        try:
            for _ in range(1000):
                s.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            status, _ = answer(s)
        except ConnectionError:
            return
    assert status == 413


@pytest.mark.parametrize("size", [b"F" * 15, b"F" * 1000])
def test_a_chunk_of_absurd_size_is_cut_off_too(port: int, size: bytes) -> None:
    with connection(port) as s:
        s.sendall(CHUNKED + size + b"\r\n")
        try:
            for _ in range(1000):
                s.sendall(b" " * 65536)
            status, _ = answer(s)
        except ConnectionError:
            return
    assert status == 413


def test_a_body_in_chunks_of_a_byte(port: int) -> None:
    body = b'{"max_tokens":1,"prompt":"' + b"x" * 100_000 + b'"}'
    with connection(port) as s:
        s.sendall(
            CHUNKED + b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n" + GET + b"\r\n"
        )
        answers = Answers(s)
        assert answers.next()[0] == 200
        assert answers.next()[0] == 200  # what follows the last chunk is the next request


@pytest.mark.parametrize(
    "data", [GET + b"\r\n", with_length(BODY), CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n"]
)
def test_a_request_a_byte_at_a_time(port: int, data: bytes) -> None:
    with connection(port) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            s.sendall(bytes([byte]))
        assert answer(s)[0] == 200
        s.sendall(GET + b"\r\n")
        assert answer(s)[0] == 200


def test_pipelined_requests_are_all_answered_in_order(port: int) -> None:
    with connection(port) as s:
        asked = [b"GET /v1/models/%d HTTP/1.1\r\nHost: x\r\n\r\n" % i for i in range(200)]
        s.sendall(b"".join(asked))
        answers = Answers(s)
        for i in range(200):
            status, body = answers.next()
            assert (status, json.loads(body)["id"]) == (200, str(i))


def test_nothing_is_answered_behind_a_malformed_request(port: int) -> None:
    with connection(port) as s:
        s.sendall(GET + b"\r\n" + GET + b"bad\r\n\r\n" + GET + b"\r\n")
        assert statuses(read_all(s)) == [200, 400]


def test_a_refused_field_does_not_break_what_is_pipelined_behind_it(port: int) -> None:
    with connection(port) as s:
        s.sendall(with_length(b'{"prompt":7}') + with_length(b"{") + with_length(BODY))
        answers = Answers(s)
        assert [answers.next()[0] for _ in range(3)] == [400, 400, 200]


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
FRAMES: dict[str, bytes] = {
    "a length before chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    % (5 + len(SMUGGLED)),
    "chunks before a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a coding with a tab": b"Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
    "a coding in large letters": b"Content-Length: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n",
    "a coding behind another": b"Content-Length: 5\r\nTransfer-Encoding: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding on a folded line": b"Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a chunk that lies": b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_no_request_is_smuggled(port: int, frame: bytes) -> None:
    with connection(port) as s:
        s.sendall(POST + frame + SMUGGLED)
        if b"folded" in frame or b" Transfer" in frame:  # part of another header: the length counts
            assert answer(s)[0] == 400
            return
        assert statuses(read_all(s)) == [400]


def test_a_length_that_is_too_large_waits_and_harms_nobody(port: int) -> None:
    with connection(port) as s:
        s.sendall(POST + b"Content-Length: 1000\r\n\r\n" + BODY)
        assert ask(port, "GET", "/health")[0] == 200


def test_an_expectation_behind_a_request_that_runs() -> None:
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


def test_leaving_at_any_point(port: int) -> None:
    for data in (with_length(BODY), CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n"):
        for n in range(len(data)):
            with connection(port) as s:
                s.sendall(data[:n])
    assert ask(port, "GET", "/health")[0] == 200


def test_many_half_requests_keep_nobody_out(port: int) -> None:
    with ExitStack() as stack:
        for n in range(200):
            s = stack.enter_context(connection(port))
            s.sendall(
                (GET + b"\r\n", CHUNKED + b"5\r\n", POST + b"Content-Length: 9\r\n\r\n")[n % 3][:-1]
            )
        assert ask(port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200


@contextmanager
def served(app: Callable[..., Any], clock: Callable[[], float]) -> Iterator[int]:
    server = HttpServer(app, bind("127.0.0.1", 0), clock=clock)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join()


def hello(environ: dict[str, Any], start_response: Any) -> Sequence[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"hi"]


@pytest.mark.parametrize("begun", [GET, POST + b"Content-Length: 99\r\n\r\n", CHUNKED, b"\r"])
def test_half_a_request_and_silence_is_ended(begun: bytes) -> None:
    # Each look at this clock is later than the one before.
    ticks = itertools.count(0.0, RECEIVE_SECONDS / 2)
    with served(hello, lambda: next(ticks)) as port, connection(port) as s:
        s.sendall(begun)
        for _ in range(4):  # the server turns with all that happens
            assert ask(port, "GET", "/")[0] == 200
        assert read_all(s) == b""


def test_half_a_request_is_ended_although_more_of_it_comes_now_and_then() -> None:
    now = [0.0]
    with served(hello, lambda: now[0]) as port, connection(port) as s:
        s.sendall(GET)
        s.settimeout(0.01)
        for _ in range(100_000):
            try:
                now[0] += RECEIVE_SECONDS / 10
                s.sendall(b"X: y\r\n")
                assert s.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
        else:
            pytest.fail("it is still connected")


def test_a_connection_that_is_only_kept_open_is_not_ended() -> None:
    now = [0.0]
    with served(hello, lambda: now[0]) as port, connection(port) as s:
        for _ in range(3):
            s.sendall(GET + b"\r\n")
            assert answer(s) == (200, b"hi")
            now[0] += 2 * RECEIVE_SECONDS
            with connection(port) as other:  # the server has looked at its clock
                other.sendall(GET + b"\r\n")
                assert answer(other) == (200, b"hi")


METHODS = ("HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "SEARCH")


@pytest.mark.parametrize("path", PATHS)
def test_every_method_of_every_route(port: int, path: str) -> None:
    known = {m.upper() for m in PATHS[path]} | {"OPTIONS"}
    known |= {"HEAD"} if "GET" in known else set()
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for method in METHODS:  # on one connection: a body too many would be read as the next answer
        c.request(method, re.sub(r"{\w+}", "some/thing", path))
        response = c.getresponse()
        body = response.read()
        if method not in known:
            assert response.status == 405
            assert {m.strip() for m in response.headers["Allow"].split(",")} == known
        else:
            assert response.status in ((200, 400) if method == "POST" else (200,))
        if method == "HEAD":
            assert body == b""
        elif response.status >= 400:
            assert json.loads(body)["error"]
    c.close()


WORDS = (
    b"\r\n", b"\r\n\r\n", b"\0", b":", b" ", b"Content-Length: ", b"Transfer-Encoding: chunked", b"-1",
    b"Expect: 100-continue",
    b"HTTP/1.0", b"POST", b"0\r\n", b"ffffffff", b"{", b"\xff", b"http://[", b"%", b"/v1/completions",
    b"\r", b"\n", b"\t",
)  # fmt: skip


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Bytes flipped, taken out, repeated and put in."""
    for _ in range(chance.randint(1, 6)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        data = chance.choice(
            (
                data[:at] + data[at + 1 :],
                data[:at] + data[end:],
                data[:at] + data[at:end] * 2 + data[end:],
                data[:at] + chance.choice(WORDS) + data[at:],
                data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :],
            )
        )
    return data


WHOLE = (
    with_length(BODY) + GET + b"\r\n",
    CHUNKED + b"1d\r\n" + BODY + b"\r\n0\r\n\r\n" + with_length(BODY),
    with_length(BODY, POST + b"Expect: 100-continue\r\nConnection: keep-alive\r\n"),
)


def test_the_parser_takes_or_refuses_whatever_comes() -> None:
    chance = random.Random(11)
    adjustments = Adjustments(max_request_body_size=MAX_BODY_BYTES)
    ends = set()
    for i in range(5000):
        data = mutated(chance, WHOLE[i % 3])
        p = Parser(adjustments)
        while data:
            piece = data[: chance.randint(1, len(data))]
            n = p.received(piece)
            assert n or p.completed, "nothing was taken, for ever"
            data = data[n:]
            if p.completed:
                assert not p.expect_continue
                ends.add(p.error.code if p.error else 200)
                p.close()
                p = Parser(adjustments)
        p.close()
    assert {200, 400} <= ends <= {200, 400, 413}


def test_mutated_requests_harm_nobody(port: int) -> None:
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
