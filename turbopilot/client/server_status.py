"""Status of a running server, asked for once or followed."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from serve.api.status_reading import read_status
from turbopilot.base.errors import TurboPilotError
from turbopilot.base.quoting import shortened
from turbopilot.client.connection import CHECK_URL, AnswerUnreadable, ServerConnection

if TYPE_CHECKING:
    from serve.api.status import RequestTimes, ServerEvent, StatusAnswer, StatusSample

ROUTE: Final = "/status"
STREAM_ROUTE: Final = "/status/stream"
_ANSWER_SECONDS: Final = 10.0
_SILENT_SECONDS: Final = 15.0  # an event is due about every second
_RETRY_SECONDS: Final = 1.0
_MOST_SAMPLES: Final = 600  # ten minutes
_MOST_ROWS: Final = 200  # requests, and events


@dataclass(frozen=True, slots=True)
class StatusHistory:
    """Newest status of a server, and the last measurements, requests and events, the newest at the end."""

    status: StatusAnswer
    samples: tuple[StatusSample, ...]
    requests: tuple[RequestTimes, ...]
    events: tuple[ServerEvent, ...]

    @classmethod
    def beginning(cls, status: StatusAnswer) -> StatusHistory:
        """Return a history of one status."""
        s = status
        return cls(
            s,
            tuple(s["samples"][-_MOST_SAMPLES:]),
            tuple(s["requests"][-_MOST_ROWS:]),
            tuple(s["events"][-_MOST_ROWS:]),
        )

    def then(self, status: StatusAnswer) -> StatusHistory:
        """Return the history with the next status; a new one if the server was started again."""
        new = StatusHistory.beginning(status)
        if status["started"] != self.status["started"]:
            return new
        samples = {s["time"]: s for s in (*self.samples, *new.samples)}
        requests = {r["id"]: r for r in (*self.requests, *new.requests)}
        events = {e["id"]: e for e in (*self.events, *new.events)}
        return StatusHistory(
            status,
            tuple(samples.values())[-_MOST_SAMPLES:],
            tuple(requests.values())[-_MOST_ROWS:],
            tuple(events.values())[-_MOST_ROWS:],
        )


def status_of(server: ServerConnection) -> StatusAnswer:
    """Return the status of a server.

    Raises:
        ServerUnreachable, ServerRefused: the server does not answer, or answers with an error.
        AnswerUnreadable: it is not the status of such a server.
    """
    return _read(server, ROUTE, server.get(ROUTE, _ANSWER_SECONDS))


def _read(server: ServerConnection, route: str, data: bytes) -> StatusAnswer:
    try:
        return read_status(data)
    except ValueError as e:
        raise AnswerUnreadable(
            f"{server.url}{route}: not the status of a server: {shortened(str(e))}", hint=CHECK_URL
        ) from None


class StatusFollower:
    """Thread that keeps the status of a server up to date, and tries again while the server does not answer.

    Args:
        server: the server; `close` closes it.
        status: its status now.

    Attributes:
        history: newest status and the last measurements.
        failure: why the server does not answer now; "" if it does.
    """

    def __init__(self, server: ServerConnection, status: StatusAnswer) -> None:
        self.history = StatusHistory.beginning(status)
        self.failure = ""
        self._server = server
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._server.close()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
                self.failure = "the server has ended the stream"
            except TurboPilotError as e:
                self.failure = e.message.removeprefix(self._server.url).removeprefix(": ")
            self._closed.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        """Take one stream to its end."""
        self._take(status_of(self._server))
        events = self._server.events(STREAM_ROUTE, seconds=_SILENT_SECONDS, renews=True)
        with closing(events):
            for data in events:
                self._take(_read(self._server, STREAM_ROUTE, data))

    def _take(self, status: StatusAnswer) -> None:
        self.history, self.failure = self.history.then(status), ""
