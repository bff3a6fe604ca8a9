"""Small asyncio HTTP/1.1 client. It does little, because it shares the CPU with the server under test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
_READ = 1 << 16


class BadAnswer(Exception):
    """A response that is not a completion; the message holds the status and the start of the body."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:300].decode(errors='replace')}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as its client saw it.

    Attributes:
        text: the completion's whole text.
        n_tokens: generated tokens as counted by the server, or as estimated by `_Seen._count`.
        n_prompt: tokens of the prompt; 0 if the server does not report them.
        n_cached: prompt tokens that were found in a cache.
        reason: the finish reason.
        first: seconds from sending to the first text; to the end if the response is not streamed.
        seconds: seconds from sending to the frame with the finish reason.
    """

    text: str
    n_tokens: int
    n_prompt: int
    n_cached: int
    reason: str
    first: float
    seconds: float


@dataclass(slots=True)
class Unframed:
    """Parser of one HTTP/1.1 response: takes bytes from the socket, returns bytes of the body.

    Attributes:
        status: 0 until the head is complete.
        headers: names in lower case.
        complete: whether the body has ended.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    _buffer: bytes = b""
    _left: int = -1  # bytes of the body, or of the chunk, that are missing; -1 is unknown

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in `data`; empty data means that the connection was closed.

        Raises:
            ConnectionError: the connection was closed before the response was complete.
        """
        if not data:
            if not self.status or self.headers.get("transfer-encoding") or self._left > 0:
                raise ConnectionError("the server closed the connection before the response ended")
            self.complete = True
            return b""
        self._buffer += data
        if not self.status and not self._head():
            return b""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(iter(self._chunk, b""))
        body, self._buffer = self._buffer, b""
        if self._left >= 0:
            self._left -= len(body)
            self.complete = self._left <= 0
        return body

    def _head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}
        status = int(first.split()[1])
        self._buffer = rest
        if status == 100:
            return self._head()
        self.status = status
        self._left = int(self.headers.get("content-length", -1))
        self.complete = self._left == 0
        return True

    def _chunk(self) -> bytes:
        """Return a part of a chunk, or nothing if more data is needed."""
        if self._left < 0:
            line, end, rest = self._buffer.lstrip(b"\r\n").partition(b"\r\n")
            if not end:
                return b""
            self._left, self._buffer = int(line.split(b";")[0], 16), rest
            if self._left == 0:
                self.complete = True
                return b""
        part, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left = self._left - len(part) or -1
        return part


def request_bytes(
    method: str, path: str, body: bytes = b"", *, keep: bool = False, session: str = ""
) -> bytes:
    """Return the bytes of a request; `session` names the editor's session."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Accept: */*"]
    if session:
        lines.append(f"X-TurboPilot-Session: {session}")
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if not keep:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def connected(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection, and close it on exit even if a response is incomplete."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def fetch(
    port: int, path: str, *, method: str = "GET", body: bytes = b""
) -> tuple[int, bytes, Mapping[str, str]]:
    """Send a request and return the status, body and headers of the response."""  # fmt: skip
    async with connected(port) as (reader, writer):
        writer.write(request_bytes(method, path, body))
        answer, parts = Unframed(), []
        while not answer.complete:
            parts.append(answer.feed(await reader.read(_READ)))
        return answer.status, b"".join(parts), answer.headers


def greedy(prompt: str, max_tokens: int, *, stream: bool) -> dict[str, Any]:
    """Return the fields of a greedy request; llama-cpp-python would penalize repetition by default."""
    fields: dict[str, Any] = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "repeat_penalty": 1.0,
    }
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return fields


async def complete(port: int, fields: Mapping[str, Any], *, session: str = "") -> Answer:
    """Request a completion and wait for its end; cancellation closes the connection.

    Raises:
        BadAnswer: the response is not a completion.
        OSError: the server cannot be reached, or it closed the connection.
    """
    body = json.dumps(fields).encode()
    async with connected(port) as (reader, writer):
        began = time.perf_counter()
        writer.write(request_bytes("POST", "/v1/completions", body, session=session))
        seen = _Seen(bool(fields.get("stream")), int(fields["max_tokens"]))
        answer = Unframed()
        while not answer.complete:
            data = answer.feed(await reader.read(_READ))
            if data:
                seen.feed(data, time.perf_counter() - began)
        if answer.status != 200:
            raise BadAnswer(answer.status, seen.rest)
        return seen.answer(time.perf_counter() - began)


class _Seen:
    """Reader of a completion's body, streamed or whole."""

    def __init__(self, is_stream: bool, max_tokens: int) -> None:
        self.rest = b""
        self._is_stream, self._max_tokens = is_stream, max_tokens
        self._texts: list[str] = []
        self._usage: dict[str, Any] = {}
        self._reason = ""
        self._first = self._end = 0.0

    def feed(self, data: bytes, now: float) -> None:
        self.rest += data
        if not self._is_stream:
            return
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                self._take(json.loads(line[6:]), now)

    def _take(self, value: dict[str, Any], now: float) -> None:
        if "error" in value:
            raise BadAnswer(200, json.dumps(value).encode())
        self._usage = value.get("usage") or self._usage
        for choice in value.get("choices", ()):
            if choice.get("text"):
                self._texts.append(choice["text"])
                self._first = self._first or now
            if choice.get("finish_reason"):
                self._reason, self._end = choice["finish_reason"], now

    def answer(self, now: float) -> Answer:
        if not self._is_stream:
            self._take(json.loads(self.rest), now)
        if not self._reason:
            raise BadAnswer(200, self.rest or b"the stream ended without a finish_reason")
        details = self._usage.get("prompt_tokens_details") or {}
        return Answer(
            text="".join(self._texts),
            n_tokens=self._count(),
            n_prompt=int(self._usage.get("prompt_tokens", 0)),
            n_cached=int(details.get("cached_tokens", 0)),
            reason=self._reason,
            first=self._first or self._end,
            seconds=self._end,
        )

    def _count(self) -> int:
        """Return the number of generated tokens.

        llama-cpp-python sends no usage in a stream. The number is then `max_tokens` if the finish reason is
        "length", else the number of frames with text.
        """
        if "completion_tokens" in self._usage:
            return int(self._usage["completion_tokens"])
        return self._max_tokens if self._reason == "length" else len(self._texts)
