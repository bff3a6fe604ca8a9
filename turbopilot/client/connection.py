"""Requests to a running server over HTTP, whose answers are not trusted."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from serve.security_options import KEY_VARIABLE
from serve.upstream.address import EngineAddress
from serve.upstream.client import BROKEN, MOST_ANSWER, EngineClient, EngineStream
from turbopilot.base.errors import InvalidInput, ServeError
from turbopilot.base.quoting import shortened

_MOST_MESSAGE: Final = 500  # characters of a server's error that are shown
_BAD_REQUEST: Final = frozenset({400, 413, 422})
CHECK_URL: Final = "check --url: it must be the address of a TurboPilot server of this version"
"""Hint for an answer that such a server does not give."""
_HINTS: Final = {
    401: f"give the server's API key with --api-key or {KEY_VARIABLE}",
    403: "ask the server's operator for access",
    404: CHECK_URL,
    421: "give a name of the server in --url, or start it with --allowed-host NAME",
    503: "try again later",
}
_OTHER_HINT: Final = "see the server's log"


class ServerUnreachable(ServeError):
    """No server answers at the address, or the connection ended before the answer was complete."""


class ServerRefused(ServeError):
    """The server answered with an error."""


class AnswerUnreadable(ServeError):
    """The server's answer is not what a TurboPilot server would send."""


class ServerConnection:
    """A running server.

    Args:
        url: its URL, with or without /v1 at its end.
        key: API key to send; "" for none. Of several keys with spaces between them, as `serve` accepts them in
            TURBOPILOT_API_KEY, the first is sent.
        otherwise: what else to do if no server answers, for the hint.

    Attributes:
        url: its URL, without /v1.
    """

    def __init__(self, url: str, key: str = "", otherwise: str = "") -> None:
        key = (key.split() or [""])[0]
        if not key.isascii() or not key.isprintable():  # the key itself is not shown
            raise InvalidInput(
                "--api-key: must be printable ASCII", hint="give a key of `turbopilot serve`"
            )
        address = EngineAddress.parse(url, "--url")
        self.url = address.name
        self._otherwise = f"; {otherwise}" if otherwise else ""
        self._open: set[EngineStream] = set()
        self._is_closed = False
        self._client = EngineClient(address, key)
        self._client.close()  # from now on it keeps no connection for a further request

    def get(self, path: str, seconds: float) -> bytes:
        """Return the answer to a GET request.

        Args:
            path: path of the route.
            seconds: time until the headers and each further part must arrive.

        Raises:
            ServerUnreachable, ServerRefused: the server does not answer, or answers with an error.
            AnswerUnreadable: it is too long.
        """
        with self._stream(path, None, seconds) as stream:
            data = stream.rest()
        if len(data) >= MOST_ANSWER:
            raise AnswerUnreadable(
                f"{self.url}{path}: the answer is longer than {MOST_ANSWER} bytes", hint=CHECK_URL
            )
        return data

    def events(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float,
        renews: bool = False,
    ) -> Generator[bytes, None, None]:
        """Yield the data of server-sent events until the answer ends. Closing the iterator cancels the request.

        Args:
            path: path of the route.
            body: JSON of a POST request; None sends a GET request.
            seconds: time for the whole answer.
            renews: whether each line has this time again, so that the answer may be endless.

        Raises:
            ServerUnreachable, ServerRefused: the server does not answer in time, or answers with an error.
        """
        until = time.monotonic() + seconds
        with self._stream(path, body, seconds) as stream:
            while line := stream.line(seconds if renews else _left(until)):
                name, _, value = line.partition(b":")
                if name == b"data":
                    yield value.strip()

    def close(self) -> None:
        """Cancel the requests that run, in any thread; no further ones are sent."""
        self._is_closed = True
        for stream in tuple(self._open):
            stream.cancel()

    @contextmanager
    def _stream(
        self, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Iterator[EngineStream]:
        """Send a request whose answer is read in the block; raise our errors if it fails there, or is an error."""
        stream = EngineStream(self._client)
        self._open.add(stream)
        if self._is_closed:
            stream.cancel()
        data = None if body is None else json.dumps(body).encode()
        status = 0
        try:
            if (status := stream.start(path, data, seconds)) != 200:
                raise refusal(f"{self.url}{path}", status, stream.rest())
            yield stream
        except BROKEN as e:
            raise self._broken(e, has_answered=status > 0) from None
        finally:
            self._open.discard(stream)
            stream.close()

    def _broken(self, error: Exception, *, has_answered: bool) -> ServerUnreachable:
        if isinstance(error, TimeoutError):
            return ServerUnreachable(
                f"{self.url}: no answer in time", hint=f"check --url, or {_HINTS[503]}"
            )
        reason = shortened(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        if has_answered:
            return ServerUnreachable(
                f"{self.url}: the answer broke off ({reason})", hint=_OTHER_HINT
            )
        return ServerUnreachable(
            f"{self.url}: no server answers ({reason})",
            hint="start one with `turbopilot serve`, or give its address with --url"
            + self._otherwise,
        )


def _left(until: float) -> float:
    """Return the seconds until a time; raise TimeoutError if it has passed."""
    if (left := until - time.monotonic()) > 0:
        return left
    raise TimeoutError


def refusal(where: str, status: int, body: bytes) -> ServeError | InvalidInput:
    """Return the error for an answer with an HTTP status other than 200."""
    message = error_message(body) or f"status {status}"
    kind = InvalidInput if status in _BAD_REQUEST else ServerRefused
    hint = "check the options" if kind is InvalidInput else _HINTS.get(status, _OTHER_HINT)
    return kind(f"{where}: {message}", hint=hint)


def error_message(body: bytes) -> str:
    """Return the message of a JSON error, in OpenAI's form or as a text; "" if the body is something else."""
    error = read_object(body).get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return shortened(message, _MOST_MESSAGE) if isinstance(message, str) else ""


def read_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if the data is something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
