"""Subclasses of waitress's connection classes.

A channel notices at once when its client disconnects, sends errors as JSON, keeps the connection open after a stream,
and closes the connection of a client that does not read its response or does not complete its request in time. If a
client disconnects after `channel_request_lookahead` pipelined requests, the server notices it only at the next write.

A client that closes only its sending side, as `nc -N` does, gets its responses, but its completions are cancelled. TCP
reports the end of the data in the same way if an editor closes the connection because it no longer needs a completion.
Only an attempt to send distinguishes the two, and most responses cannot begin before the completion is finished.
A relay may even turn the one into the other, if it closes its sending side and still receives. nginx cancels such
requests as well.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, RequestEntityTooLarge

from serve.api.dialect import json_bytes
from serve.http import request_log
from serve.http.errors import Fault, error_body
from serve.http.request_log import REQUEST_ID_HEADER, request_id

# Refused bodies up to this size are received and discarded, so that a client that sends all before it reads gets the
# error instead of a broken connection. For larger ones, the connection is closed.
MAX_DISCARDED_BYTES = 2**30
# Seconds after which the connection of a client that reads nothing is closed. Until then it may block a thread:
# waitress's writes block while more than `outbuf_high_watermark` (16 MiB) is unsent.
STUCK_SECONDS = 30.0
# Seconds in which a request must arrive completely, counted from its first byte. Otherwise clients that send one byte
# per minute could occupy all connections. Before the first byte, waitress's `channel_timeout` applies.
LATE_SECONDS = 30.0
# Bytes of a chunked body that are parsed at a time. waitress copies the remaining data for each chunk, so 64 KiB of
# one-byte chunks would take as long as copying gigabytes.
CHUNKED_AT_ONCE = 4096
# Maximum length of a chunk-size line and of the trailer, in bytes; waitress limits neither.
MAX_CHUNK_LINE = 16384
# Maximum number of open connections; waitress's default of 100 is too low for a team's editors.
MAX_CONNECTIONS = 1000
# Files that the process may open beside its connections.
SPARE_FILES = 64
# Key in the WSGI environment of a function that registers a callback for the client's disconnect, `Channel.when_gone`.
WHEN_GONE = "turbopilot.when_gone"


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """waitress's parser, made stricter: it refuses requests that are endless or whose end is ambiguous.

    If the announced length of a body is too large, the body is discarded; waitress would close the connection while the
    client is still sending.
    """

    expect_continue: bool
    _discard = 0

    def received(self, data: bytes) -> int:
        """Parse received bytes. Return how many of them belong to this request."""
        if self._discard:
            n = min(len(data), self._discard)
            self._discard -= n
            self.completed = not self._discard
            return n
        if self.chunked:
            data = data[:CHUNKED_AT_ONCE]
        consumed: int = super().received(data)
        if self.chunked and not self.completed:
            unfinished = len(self.body_rcv.control_line) + len(self.body_rcv.trailer)
            if unfinished > MAX_CHUNK_LINE:
                self.error = BadRequest("Chunk size or trailer is too long")
                self.completed = True
        if isinstance(self.error, RequestEntityTooLarge):
            if self.expect_continue:
                self.expect_continue = False  # send the error, not "100 Continue"
            elif not self.body_bytes_received and self.content_length <= MAX_DISCARDED_BYTES:
                self._discard = self.content_length
                self.completed = False
        if self.completed:
            self.expect_continue = False  # or waitress would send "100 Continue" and wait
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers.

        Raises:
            ParsingError: they are not valid HTTP, or the end of the request is ambiguous.
        """
        try:
            super().parse_header(header_plus)
        except TransferEncodingNotImplemented as e:
            raise ParsingError(*e.args) from None  # clients would retry after 501
        except ValueError as e:  # a length of thousands of digits, "http://["
            raise ParsingError(str(e)) from None
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("both Content-Length and Transfer-Encoding are set")
        if "TRANSFER_ENCODING" in self.headers:  # waitress removes the header in HTTP/1.1 requests
            raise ParsingError("Transfer-Encoding requires HTTP/1.1")


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Task that sends waitress's own errors as JSON in the client's API dialect, with a request id, and logs them."""

    def execute(self) -> None:
        """Write the error response."""
        error = self.request.error
        given = self.request.headers.get(REQUEST_ID_HEADER.upper().replace("-", "_"), "")
        # If the application raised an exception, its request has an id already.
        request_id.set(request_id.get() or request_log.choose_request_id(given))
        request_log.log_refused(error.code, error.reason)
        fault = Fault(error.code, "invalid_request_error", f"{error.reason}: {error.body}")
        body = json_bytes(error_body(fault, getattr(self.request, "path", "")))
        self.status = f"{error.code} {error.reason}"
        self.content_length = len(body)
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.append((REQUEST_ID_HEADER, request_id.get()))
        self.set_close_on_finish()
        self.write(body)


class Task(WSGITask):  # type: ignore[misc]
    """Task that passes WHEN_GONE to the application, and keeps HTTP/1.1 connections open after its response.

    waitress closes them after each response without a Content-Length, such as a stream, although a chunked body and a
    status without a body mark the response's end.
    """

    def set_close_on_finish(self) -> None:
        """Close the connection after the response, unless the response marks its end and the client wants no close."""
        marks_end = self.chunked_response or not self.has_body
        if self.version == "1.0" or self.request.connection_close or not marks_end:
            super().set_close_on_finish()

    def finish(self) -> None:
        """Write the end of the response. If the client has cancelled it, close the connection."""
        super().finish()
        self.close_on_finish |= self.channel.is_cancelled

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment."""
        environ: dict[str, Any] = super().get_environment()
        environ[WHEN_GONE] = self.channel.when_gone
        return environ


class Channel(HTTPChannel):  # type: ignore[misc]
    """A client's connection, created by waitress."""

    parser_class = Parser
    error_task_class = JsonErrorTask
    task_class = Task
    is_cancelled = False  # a request was cancelled because its client disconnected or sends no more
    _is_half_closed = False  # the client sends no more and may still receive

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._watch_lock = threading.Lock()
        self._watchers: dict[object, Callable[[], None]] = {}
        self._unsent_since: tuple[float, float] | None = None
        self._begun: tuple[object, float] | None = None
        super().__init__(*args, **kwargs)

    def when_gone(self, callback: Callable[[], None]) -> Callable[[], object]:
        """Call `callback` once when the client disconnects or closes its sending side; immediately if it already has.

        Otherwise the server's main thread calls it.

        Returns:
            A function that removes the callback.
        """
        key = object()
        with self._watch_lock:
            # `close` clears `connected` before it takes the watchers, so no callback is lost in between.
            if self.connected and not self._is_half_closed:
                self._watchers[key] = callback
                return lambda: self._watchers.pop(key, None)
            self.is_cancelled = True
        callback()
        return lambda: None

    def service(self) -> None:
        """Process a request, in a thread that also processes other requests."""
        try:
            super().service()
        finally:  # not earlier: waitress may log an error of the request
            request_id.set("")
        with self.requests_lock:
            if not self._is_half_closed or self.requests:
                return
            self.close_when_flushed = True
        self.server.pull_trigger()

    def readable(self) -> bool:
        """Return whether the main thread waits for data."""
        return not self._is_half_closed and bool(super().readable())

    def handle_read(self) -> None:
        """Receive data. If there is no more, close the connection, after the responses to the client's requests."""
        if self.requests and self._is_at_end():
            with self.requests_lock:  # also held by `service`, so that one of the two closes
                self._is_half_closed = bool(self.requests)
        if self._is_half_closed:
            self._tell_gone()
        else:
            super().handle_read()

    def _is_at_end(self) -> bool:
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except OSError:  # the caller's next read raises it as well
            return False

    def handle_close(self) -> None:
        """Close the connection after an error, a timeout or a disconnect."""
        super().handle_close()
        self._tell_gone()

    def close(self) -> None:
        """Close the connection."""
        super().close()
        self._tell_gone()

    def _tell_gone(self) -> None:
        with self._watch_lock:
            watchers, self._watchers = self._watchers, {}
            self.is_cancelled |= bool(watchers)
        for callback in watchers.values():
            callback()

    def is_stuck(self, now: float) -> bool:
        """Return whether there is unsent output and none could be sent for STUCK_SECONDS.

        Args:
            now: current time. The method must be called regularly, always with the same clock.
        """
        if not self.total_outbufs_len:
            self._unsent_since = None
            return False
        # `last_activity` changes at each send. It is only compared for equality, so clock jumps do not matter.
        if self._unsent_since is None or self._unsent_since[0] != self.last_activity:
            self._unsent_since = self.last_activity, now
            return False
        return now - self._unsent_since[1] >= STUCK_SECONDS

    def is_late(self, now: float) -> bool:
        """Return whether a request has begun to arrive but is still incomplete after LATE_SECONDS.

        Args:
            now: see `is_stuck`.
        """
        request = self.request
        # While an earlier request is processed, the next one may not be read yet, or not get its "100 Continue".
        if request is None or self.requests or self.total_outbufs_len:
            self._begun = None
            return False
        if self._begun is None or self._begun[0] is not request:
            self._begun = request, now
            return False
        return now - self._begun[1] >= LATE_SECONDS


def most_connections() -> int:
    """Return MAX_CONNECTIONS, or less if this process may not open as many."""
    if sys.platform == "win32":  # select() takes 512 sockets there
        return 500
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft - SPARE_FILES, soft // 2))


def dispensable(channels: Iterable[Channel]) -> Channel | None:
    """Return the connection to close if there are too many; None if each has a request that is processed.

    It is the connection without data for the longest time, of the client address with the most connections, so that one
    client cannot lock out the others. Behind a proxy, all clients have one address. A connection whose request is
    incomplete counts too: otherwise, many such connections would leave only the newest client's to close.
    """
    channels = list(channels)
    n_of = Counter(c.addr[0] for c in channels)
    found = [c for c in channels if not c.requests]
    return min(found, key=lambda c: (-n_of[c.addr[0]], c.last_activity), default=None)
