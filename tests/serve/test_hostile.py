"""What no honest client sends, over real sockets: it is refused or answered, and the server stays well.

Never status 500, never a connection that waits for ever, nothing left running, and a plain request is served after it.
"""

from __future__ import annotations

import http.client
import json
import re
from typing import Any

import pytest

from serve.api.openapi import description
from serve.http.channel import MAX_CHUNK_LINE
from serve.settings import Defaults
from tests.support.wire import BODY, CHUNKED, GET, POST, said, with_length

PATHS: Any = description(Defaults())["paths"]


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
    "a length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1d\r\n%s\r\n0\r\n\r\n" % BODY,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n0\r\n\r\n" + BODY,
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
    "an expected body in another coding": POST + b"Expect: 100-continue\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a body that is compressed": with_length(b"\x1f\x8b\x08\0\0\0\0\0", POST + b"Content-Encoding: gzip\r\n"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_400(port: int, data: bytes) -> None:
    assert said(port, data)[0] == 400


ODD: dict[str, tuple[bytes, set[int]]] = {
    "a whole address": (b"GET http://x/health HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
    "a whole address without a path": (b"GET http://x HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
    "HTTP/0.9": (b"GET /health\r\n\r\n", {200}),
    "no path": (b"GET HTTP/1.1\r\n\r\n", {404}),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", {200}),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {404}),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", {200}),
    "empty lines before": (b"\r\n\r\n\r\n" + GET + b"\r\n", {200}),
    "an upgrade to WebSocket": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", {400}
    ),
    "an upgrade to HTTP/2": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", {200}
    ),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", {404, 405}),
    "options of everything": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "NUL in the path": (b"GET /health%00 HTTP/1.1\r\n\r\n", {404}),
    "a raw NUL in the path": (b"GET /health\0 HTTP/1.1\r\n\r\n", {400, 404}),
    "no UTF-8 in the path": (b"GET /%ff%c0%80 HTTP/1.1\r\n\r\n", {404}),
    "raw bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", {400, 404}),
    "a path upwards": (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a path upwards in disguise": (b"GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a long path": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {404}),
    "a long query": (b"GET /health?" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {200}),
    "a long name of a model": (b"GET /v1/models/" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {200}),
    "many headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(4_000)) + b"\r\n", {200}),
    "a header often": (GET + b"X: a\r\n" * 10_000 + b"\r\n", {200}),
    "a header with an underscore": (GET + b"Content_Length: 5\r\n\r\n", {200}),
    "a body where none is wanted": (with_length(BODY, GET), {200}),
    "an expectation without a body": (GET + b"Expect: 100-continue\r\n\r\n", {200}),
    "an expectation of an empty body": (with_length(b"", GET + b"Expect: 100-continue\r\n"), {200}),
    "an unknown expectation": (with_length(BODY, POST + b"Expect: tea\r\n"), {200, 400}),
    "a body that is expected": (with_length(BODY, POST + b"Expect: 100-continue\r\n"), {200}),
    "chunks": (CHUNKED + b"a\r\n" + BODY[:10] + b"\r\n13\r\n" + BODY[10:] + b"\r\n0\r\n\r\n", {200}),
    "chunks of a byte": (CHUNKED + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n", {200}),
    "chunks with extensions": (CHUNKED + b'1D;a="b;\\"c"\r\n' + BODY + b"\r\n0;d\r\n\r\n", {200}),
    "chunks with a trailer": (CHUNKED + b"1D\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n", {200}),
    "a chunk's size with noughts": (CHUNKED + b"0" * 1000 + b"1D\r\n" + BODY + b"\r\n0\r\n\r\n", {200}),
    "no chunk": (CHUNKED + b"0\r\n\r\n", {400}),
}  # fmt: skip
for host in (
    b"", b"[", b"[::1", b"a b", b"\xc3\xa9", b"a" * 5000, b"x:99999", b"x:y", b"a..b", b"\xff", b"@",
):  # fmt: skip
    data = b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    ODD[f"a host that is {host[:9]!r}"] = (data, {200, 400, 421})


@pytest.mark.parametrize(("data", "wanted"), ODD.values(), ids=ODD.keys())
def test_what_is_odd_is_answered(port: int, data: bytes, wanted: set[int]) -> None:
    assert said(port, data)[0] in wanted


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
