"""waitress's connections as this server needs them.

A channel reports at once when its client has left, refuses in JSON, and limits the wait for a client that never reads
or never ends its request. A client that closes its sending side counts as one that left, as with nginx. One that leaves
behind `channel_request_lookahead` pipelined requests is noticed when something is written to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, TransferEncodingNotImplemented
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, RequestEntityTooLarge

from serve.api.dialect import json_bytes
from serve.http.errors import Fault, error_body
from serve.http.request_log import request_id

# A refused body up to this size is received and discarded, so that a client that sends before it reads gets the answer
# instead of a broken connection. Larger ones are cut off.
MAX_DISCARDED_BYTES = 2**30
# Seconds after which the connection of a client that reads nothing is closed. Until then it may hold a thread:
# waitress's writes wait while more than `outbuf_high_watermark` (16 MiB) waits.
STUCK_SECONDS = 30.0
# Seconds in which a request must arrive, from its first byte on: else clients that send a byte a minute would hold all
# connections. Before the first byte waitress's `channel_timeout` applies.
LATE_SECONDS = 30.0
# Bytes of a chunked body that are parsed at a time. waitress copies the rest for each chunk, so 64 KiB of chunks of one
# byte would take as long as copying gigabytes.
CHUNKED_AT_ONCE = 4096
# Longest line with a chunk's size, and longest trailer, in bytes: waitress limits neither.
MAX_CHUNK_LINE = 16384
# In the WSGI environment: calls a function when the client has left. See `Channel.when_gone`.
WHEN_GONE = "turbopilot.when_gone"


class Parser(HTTPRequestParser):  # type: ignore[misc]
    """waitress's parser, which refuses instead of dropping the connection, waiting for ever or guessing.

    A body that is announced as too large is discarded; waitress would close while the client still sends.
    """

    expect_continue: bool
    _discard = 0

    def received(self, data: bytes) -> int:
        """Take received bytes; return how many of them belong to this request."""
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
                self.error = BadRequest("Chunk without an end")
                self.completed = True
        if isinstance(self.error, RequestEntityTooLarge):
            if self.expect_continue:
                self.expect_continue = False  # answered with the refusal, not with "100 Continue"
            elif not self.body_bytes_received and self.content_length <= MAX_DISCARDED_BYTES:
                self._discard = self.content_length
                self.completed = False
        if self.completed:
            self.expect_continue = False  # waitress would send it now, and then wait for a body
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers.

        Raises:
            ParsingError: they are not HTTP, or the end of the request is ambiguous.
        """
        try:
            super().parse_header(header_plus)
        except TransferEncodingNotImplemented as e:
            raise ParsingError(*e.args) from None  # 501 would be tried again
        except ValueError as e:  # a length of thousands of digits, "http://["
            raise ParsingError(str(e)) from None
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length beside Transfer-Encoding")
        if "TRANSFER_ENCODING" in self.headers:  # HTTP/1.1 takes it out
            raise ParsingError("Transfer-Encoding is of HTTP/1.1")


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what waitress refuses, as JSON in the caller's dialect."""

    def execute(self) -> None:
        """Write the answer."""
        error = self.request.error
        fault = Fault(error.code, "invalid_request_error", f"{error.reason}: {error.body}")
        body = json_bytes(error_body(fault, getattr(self.request, "path", "")))
        self.status = f"{error.code} {error.reason}"
        self.content_length = len(body)
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.write(body)


class Task(WSGITask):  # type: ignore[misc]
    """Passes WHEN_GONE to the application."""

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment."""
        environ: dict[str, Any] = super().get_environment()
        environ[WHEN_GONE] = self.channel.when_gone
        return environ


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection; made by waitress."""

    parser_class = Parser
    error_task_class = JsonErrorTask
    task_class = Task

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._watch_lock = threading.Lock()
        self._watchers: dict[object, Callable[[], None]] = {}
        self._unsent_since: tuple[float, float] | None = None
        self._begun: tuple[object, float] | None = None
        super().__init__(*args, **kwargs)

    def when_gone(self, callback: Callable[[], None]) -> Callable[[], object]:
        """Call a function once when the client has left: at once if it has, else from the server's thread.

        Returns:
            A function that withdraws this.
        """
        key = object()
        with self._watch_lock:
            # `close` clears `connected` first and then takes the watchers, so none is forgotten between.
            if self.connected:
                self._watchers[key] = callback
                return lambda: self._watchers.pop(key, None)
        callback()
        return lambda: None

    def service(self) -> None:
        """Answer a request, in a thread that answers others too."""
        try:
            super().service()
        finally:  # not earlier: waitress logs an answer that broke off
            request_id.set("")

    def handle_close(self) -> None:
        """End the connection."""
        super().handle_close()
        self._tell_gone()

    def close(self) -> None:
        """End the connection with the server."""
        super().close()
        self._tell_gone()

    def _tell_gone(self) -> None:
        with self._watch_lock:
            watchers, self._watchers = self._watchers, {}
        for callback in watchers.values():
            callback()

    def is_stuck(self, now: float) -> bool:
        """Return whether output waits and none of it could be sent for STUCK_SECONDS.

        Args:
            now: the caller's clock; call again and again.
        """
        if not self.total_outbufs_len:
            self._unsent_since = None
            return False
        # `last_activity` changes with everything that is sent; a clock that jumps changes nothing.
        if self._unsent_since is None or self._unsent_since[0] != self.last_activity:
            self._unsent_since = self.last_activity, now
            return False
        return now - self._unsent_since[1] >= STUCK_SECONDS

    def is_late(self, now: float) -> bool:
        """Return whether a request has begun to arrive, and has not ended for LATE_SECONDS.

        Args:
            now: see `is_stuck`.
        """
        request = self.request
        # While an earlier one is answered, the next may not be read, or not be told to go on.
        if request is None or self.requests or self.total_outbufs_len:
            self._begun = None
            return False
        if self._begun is None or self._begun[0] is not request:
            self._begun = request, now
            return False
        return now - self._begun[1] >= LATE_SECONDS
