"""Malformed and unusual HTTP requests over real sockets.

The server never returns status 500 and never hangs. Afterwards, no request is left running and normal requests work.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
from typing import Any

import pytest

from serve.api.endpoints import ENDPOINTS
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
    "an unknown protocol": b"GET /health HTP/1.1\r\n\r\n",
    "an invalid URL": b"GET http://[ HTTP/1.1\r\n\r\n",
    "an invalid IPv6 address in the URL": b"GET http://[::x]/health HTTP/1.1\r\n\r\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a signed length": POST + b"Content-Length: +29\r\n\r\n" + BODY,
    "a length in hexadecimal": POST + b"Content-Length: 0x1d\r\n\r\n" + BODY,
    "a broken length": POST + b"Content-Length: 29.0\r\n\r\n" + BODY,
    "an empty length": POST + b"Content-Length:\r\n\r\n" + BODY,
    "a length of 5000 digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a length of 5000 zeros": POST + b"Content-Length: " + b"0" * 5000 + b"\r\n\r\n",
    "the same length twice": POST + b"Content-Length: 29\r\nContent-Length: 29\r\n\r\n" + BODY,
    "two lengths": POST + b"Content-Length: 29\r\nContent-Length: 3\r\n\r\n" + BODY,
    "a list of lengths": POST + b"Content-Length: 29, 29\r\n\r\n" + BODY,
    "a length that is too small": with_length(BODY)[:-29].replace(b"29", b"5") + BODY,
    "a length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"1d\r\n%s\r\n0\r\n\r\n" % BODY,
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n0\r\n\r\n" + BODY,
    "chunks in HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\nContent-Length: 29\r\n\r\n" + BODY,
    "an unsupported transfer coding": POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "an unsupported coding, then chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks, then an unsupported coding": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an invalid chunk size": CHUNKED + b"zz\r\nxx\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+1\r\nx\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    "a chunk's size with _": CHUNKED + b"1_0\r\nx\r\n0\r\n\r\n",
    "a chunk's size after a space": CHUNKED + b" 1\r\nx\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "a chunk with a broken extension": CHUNKED + b'2;a="\r\n{}\r\n0\r\n\r\n',
    "a chunk's size without an end": CHUNKED + b"0" * (MAX_CHUNK_LINE + 8192),
    "a trailer without an end": CHUNKED + b"0\r\n" + b"X: y\r\n" * (MAX_CHUNK_LINE // 6 + 2000),
    "an expectation with an invalid length": POST + b"Expect: 100-continue\r\nContent-Length: x\r\n\r\n",
    "an expectation with an unsupported coding": POST + b"Expect: 100-continue\r\nTransfer-Encoding: gzip\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_returns_400(port: int, data: bytes) -> None:
    assert said(port, data)[0] == 400


ODD: dict[str, tuple[bytes, set[int]]] = {
    "an absolute URL": (b"GET http://x/health HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
    "an absolute URL without a path": (b"GET http://x HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
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
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", {404}),
    "NUL in the path": (b"GET /health%00 HTTP/1.1\r\n\r\n", {404}),
    "a raw NUL in the path": (b"GET /health\0 HTTP/1.1\r\n\r\n", {400, 404}),
    "invalid UTF-8 in the path": (b"GET /%ff%c0%80 HTTP/1.1\r\n\r\n", {404}),
    "raw bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", {400, 404}),
    "a path with ..": (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a path with escaped ..": (b"GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n\r\n", {404}),
    "a long path": (b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {404}),
    "a long query": (b"GET /health?" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {200}),
    "a long model name": (b"GET /v1/models/" + b"a" * 60_000 + b" HTTP/1.1\r\n\r\n", {404}),
    "many headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(4_000)) + b"\r\n", {200}),
    "a repeated header": (GET + b"X: a\r\n" * 10_000 + b"\r\n", {200}),
    "a header with an underscore": (GET + b"Content_Length: 5\r\n\r\n", {200}),
    "a body in a GET request": (with_length(BODY, GET), {200}),
    "an expectation without a body": (GET + b"Expect: 100-continue\r\n\r\n", {200}),
    "an expectation with an empty body": (with_length(b"", GET + b"Expect: 100-continue\r\n"), {200}),
    "an unknown expectation": (with_length(BODY, POST + b"Expect: tea\r\n"), {200, 400}),
    "an expectation with a body": (with_length(BODY, POST + b"Expect: 100-continue\r\n"), {200}),
    "chunks": (CHUNKED + b"a\r\n" + BODY[:10] + b"\r\n13\r\n" + BODY[10:] + b"\r\n0\r\n\r\n", {200}),
    "one-byte chunks": (CHUNKED + b"".join(b"1\r\n%c\r\n" % c for c in BODY) + b"0\r\n\r\n", {200}),
    "chunks with extensions": (CHUNKED + b'1D;a="b;\\"c"\r\n' + BODY + b"\r\n0;d\r\n\r\n", {200}),
    "chunks with a trailer": (CHUNKED + b"1D\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n", {200}),
    "a chunk size with leading zeros": (CHUNKED + b"0" * 1000 + b"1D\r\n" + BODY + b"\r\n0\r\n\r\n", {200}),
    "a compressed body": (with_length(gzip.compress(BODY), POST + b"Content-Encoding: gzip\r\n"), {415}),
    "a body that is named as not compressed": (with_length(BODY, POST + b"Content-Encoding: identity\r\n"), {200}),
    "an empty chunked body": (CHUNKED + b"0\r\n\r\n", {400}),
}  # fmt: skip
for host in (
    b"", b"[", b"[::1", b"a b", b"\xc3\xa9", b"a" * 5000, b"x:99999", b"x:y", b"a..b", b"\xff", b"@",
):  # fmt: skip
    data = b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    ODD[f"a host that is {host[:9]!r}"] = (data, {200, 400, 421})


@pytest.mark.parametrize(("data", "wanted"), ODD.values(), ids=ODD.keys())
def test_unusual_request_has_the_expected_status(port: int, data: bytes, wanted: set[int]) -> None:
    assert said(port, data)[0] in wanted


ENDLESS = [("GET", e.paths[0]) for e in ENDPOINTS if e.streams]
METHODS = ("HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "SEARCH")


@pytest.mark.parametrize("path", PATHS)
def test_unsupported_methods_return_405_with_allow(port: int, path: str) -> None:
    known = {m.upper() for m in PATHS[path]} | {"OPTIONS"}
    known |= {"HEAD"} if "GET" in known else set()
    target = re.sub(r"{\w+}", "fake", path.replace("{file}", "page.css"))
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for (
        method
    ) in METHODS:  # on one connection: an unexpected body would be read as the next response
        if (method, path) in ENDLESS:
            continue
        c.request(method, target)
        response = c.getresponse()
        body = response.read()
        if method not in known:
            assert response.status == 405
            assert {m.strip() for m in response.headers["Allow"].split(",")} == known
        else:
            assert response.status in ((200, 400, 501) if method == "POST" else (200,))
        if method == "HEAD":
            assert body == b""
        elif response.status >= 400:
            assert json.loads(body)["error"]
    c.close()
