"""The front's change from one revision of the model to the next, while both have engines."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

from turbopilot.base.threads import start_thread
from turbopilot.cluster.members import Members, newest_role, should_switch, urls_of
from turbopilot.cluster.roles import Role

log = logging.getLogger("turbopilot.cluster")

RETRY_SECONDS: Final = 5  # told to clients while no engine runs


class ServedRevision(Protocol):
    """Server of one revision: a WSGI application whose completions engines compute."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""

    def replace(self, urls: Sequence[str]) -> None:
        """Send requests to these engines from now on. Does not wait."""

    def close(self) -> None:
        """Let the running requests finish, and free what they used."""


class VersionSwitch:
    """WSGI application that answers with one revision after another. Callable from any thread.

    Args:
        open_revision: returns what answers for a role with the engines at these URLs; it may take seconds.
    """

    def __init__(self, open_revision: Callable[[Role, Sequence[str]], ServedRevision]) -> None:
        self._open = open_revision
        self._lock = threading.Lock()  # guards the attributes below
        self._members: Members = ()
        self._current: tuple[int, ServedRevision] | None = None
        self._next: tuple[int, ServedRevision] | None = None
        self._opening: int | None = None
        self.failure = ""  # why the newest revision could not be opened

    @property
    def revision(self) -> int | None:
        """The revision that answers; None before the first engine runs."""
        current = self._current
        return current[0] if current else None

    def update(self, members: Members) -> None:
        """Set the running engines. Does not wait: a new revision is opened in a thread of its own."""
        with self._lock:
            self._members = members
            role = newest_role(members)
            known = (self.revision, self._opening, self._next[0] if self._next else None)
            if role and role.revision not in known:
                self._opening = role.revision
                start_thread(lambda: self._prepare(role), "turbopilot-open")
            left = self._turn()
        _close(left)

    def _prepare(self, role: Role) -> None:
        """Open a revision, and switch to it once enough of its engines run."""
        try:
            opened, failure = self._open(role, urls_of(self._members, role.revision)), ""
        except Exception as e:
            opened, failure = None, f"revision {role.revision} cannot be opened: {e}"
            log.exception("revision %s cannot be opened", role.revision)
        with self._lock:
            left = []
            if self._opening == role.revision:
                self._opening, self.failure = None, failure
                if opened:
                    left, self._next = [self._next] if self._next else [], (role.revision, opened)
                    left += self._turn()
            elif opened:  # a later revision has come
                left = [(role.revision, opened)]
        _close(left)

    def _turn(self) -> list[tuple[int, ServedRevision]]:
        """Switch if it is time, and pass the engines on. Return the revision that was left, in a list."""
        left = []
        if self._next and should_switch(self._members, self.revision, self._next[0]):
            log.info("requests go to revision %s (before: %s)", self._next[0], self.revision)
            left = [self._current] if self._current else []
            self._current, self._next = self._next, None
        if self._current:
            urls = urls_of(self._members, self._current[0])
            # Engines that leave still answer for a while, until their successors' revision is open.
            if urls or not (self._opening or self._next):
                self._current[1].replace(urls)
        return left

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer with the current revision, or with status 503 while there is none."""
        current = self._current
        return current[1](environ, start_response) if current else _not_ready(start_response)

    def close(self) -> None:
        """Close all revisions, and wait until their requests have ended."""
        with self._lock:
            left = [v for v in (self._current, self._next) if v]
            self._current = self._next = self._opening = None
        for _, served in left:
            served.close()


def _close(left: Iterable[tuple[int, ServedRevision]]) -> None:
    """Close revisions in threads of their own, as their requests may take minutes."""
    for revision, served in left:
        start_thread(served.close, f"turbopilot-close-{revision}")


def _not_ready(start_response: Any) -> list[bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    message = "no engine of the cluster is ready; see turbopilot cluster status"
    body = json.dumps({"error": {"message": message, "type": "overloaded_error", "code": 503}})
    headers = [("Content-Type", "application/json"), ("Retry-After", str(RETRY_SECONDS))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [body.encode()]
