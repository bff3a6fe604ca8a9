"""HTTP client of one upstream: kept connections, and a streamed response that another thread can cancel.

It uses http.client of the standard library. Measured on loopback, a streamed event costs 8 µs of CPU time with it, JSON
included, 7 with aiohttp (one thread for all requests) and 11 with httpx2. Of these, only http.client's socket can be
shut down by another thread before the response begins, which is what ends a request that waits for its first token.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from serve.upstream.address import EngineAddress
from turbopilot.base.version import __version__

CONNECT_SECONDS: Final = 3.0  # a host on a local network that does not answer by then is off
MOST_IDLE: Final = 64  # connections kept open to one upstream
MOST_ANSWER: Final = 4 << 20  # bytes of an answer that is read as a whole
MOST_LINE: Final = 1 << 20  # bytes of one event: 20 log probabilities take a few thousand

# What http.client raises if the upstream is not there, or its answer is not HTTP.
BROKEN: Final = (OSError, http.client.HTTPException)


class EngineClient:
    """Connections to one upstream. Callable from any thread.

    Args:
        address: the upstream.
        key: API key to send; "" sends none.

    Attributes:
        headers: headers of every request.
    """

    def __init__(self, address: EngineAddress, key: str = "") -> None:
        self.address = address
        self.headers = {
            "Content-Type": "application/json",
            "User-Agent": f"turbopilot/{__version__}",
        }
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self._idle: list[http.client.HTTPConnection] = []
        self._is_closed = False

    def ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout: float = CONNECT_SECONDS
    ) -> tuple[int, bytes]:
        """Send a request (GET without a body) and return status and answer, which is cut to MOST_ANSWER.

        Raises:
            OSError, http.client.HTTPException: there is no answer.
        """
        stream = EngineStream(self)
        try:
            data = None if body is None else json.dumps(body).encode()
            status = stream.start(path, data, timeout)
            return status, stream.rest()
        finally:
            stream.close()

    def take(self) -> http.client.HTTPConnection | None:
        """Return an idle connection, which the upstream may have closed; None if there is none."""
        with suppress(IndexError):
            return self._idle.pop()
        return None

    def keep(self, connection: http.client.HTTPConnection) -> None:
        """Keep an idle connection for the next request."""
        if len(self._idle) < MOST_IDLE and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        """Return a new connection, which is not open yet."""
        a = self.address
        kind = http.client.HTTPSConnection if a.is_secure else http.client.HTTPConnection
        return kind(a.host, a.port, timeout=CONNECT_SECONDS)

    def close(self) -> None:
        """Close the idle connections, and later the busy ones."""
        self._is_closed = True
        while connection := self.take():
            connection.close()


class EngineStream:
    """A request and its response. One thread uses it; any thread may `cancel` it, at any time."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = (
            None  # the connection gives it up if the response is its last
        )
        self._response: http.client.HTTPResponse | None = None
        self.is_cancelled = False

    def start(
        self,
        path: str,
        body: bytes | None,
        timeout: float | None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        """Send the request; return the response's status once its headers have arrived.

        Args:
            path: path of the route, below the address's root.
            body: JSON; None sends a GET request.
            timeout: seconds until the headers must arrive; None means no limit.
            headers: headers beside those of every request.

        Raises:
            OSError, http.client.HTTPException: there is no response; TimeoutError if it takes too long.
        """
        if connection := self._client.take():
            # The upstream may have closed it while it was idle, which is not a failure.
            with suppress(
                ConnectionError, http.client.BadStatusLine, http.client.CannotSendRequest
            ):
                return self._send(connection, path, body, timeout, headers)
        self._check()
        connection = self._client.connection()
        connection.connect()
        return self._send(connection, path, body, timeout, headers)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: bytes | None,
        timeout: float | None,
        headers: Mapping[str, str],
    ) -> int:
        with self._lock:
            self._connection, self._socket = connection, connection.sock
        connection.sock.settimeout(timeout)
        try:
            self._check()
            method = "GET" if body is None else "POST"
            target = self._client.address.root + path
            connection.request(method, target, body, {**self._client.headers, **headers})
            self._response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return self._response.status

    def _check(self) -> None:
        if self.is_cancelled:
            raise ConnectionAbortedError("cancelled")

    def line(self, timeout: float | None) -> bytes:
        """Return the next line of the body; b"" at its end. Raise TimeoutError if none arrives within the timeout."""
        assert self._response
        assert self._socket
        self._socket.settimeout(timeout)
        line = self._response.readline(MOST_LINE)
        if len(line) >= MOST_LINE:
            raise http.client.LineTooLong("an event")
        self._check()
        return line

    def rest(self) -> bytes:
        """Return the rest of the body, at most MOST_ANSWER bytes."""
        assert self._response
        return self._response.read(MOST_ANSWER)

    def cancel(self) -> None:
        """Shut down the connection: the upstream stops computing, and a thread that waits for it goes on."""
        with self._lock:
            self.is_cancelled = True
            if self._socket:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Keep the connection if the response has ended or ends at once; else close it."""
        with self._lock:
            connection, self._connection, self._socket = self._connection, None, None
        if connection is None:
            return
        response = self._response
        is_over = response and response.isclosed() and not response.will_close
        if is_over and not self.is_cancelled:
            self._client.keep(connection)
            return
        if response:
            response.close()
        connection.close()
