"""The replicas that Ray Serve reports to this process, and the engines among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from turbopilot.cluster.roles import Role

Metadata = tuple[Mapping[str, Any], ...]  # metadata of each running replica


class ReplicaBoard:
    """The running replicas of one application. Ray's router writes it; callable from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._found: Metadata = ()
        self._tell: Callable[[Metadata], None] = lambda _: None

    def put(self, found: Iterable[Mapping[str, Any]]) -> None:
        """Replace the replicas, and call the listener if they have changed."""
        ready = tuple(m for m in found if m)  # a replica that still starts has none
        with self._changed:
            if ready == self._found:
                return
            self._found = ready
            self._changed.notify_all()
            tell = self._tell
        tell(ready)

    def listen(self, tell: Callable[[Metadata], None]) -> None:
        """Call a function with the replicas now, and after each change."""
        with self._changed:
            self._tell = tell
            found = self._found
        tell(found)

    def wait_until(self, holds: Callable[[Metadata], bool], timeout: float) -> Metadata:
        """Return the replicas once the condition holds for them, or those that there are after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: holds(self._found), timeout)
            return self._found


_boards: Final[dict[str, ReplicaBoard]] = {}


def board_of(application: str) -> ReplicaBoard:
    """Return this process's board of an application."""
    return _boards.setdefault(application, ReplicaBoard())


@dataclass(frozen=True, slots=True)
class Member:
    """A running engine: its URL and its role."""

    url: str
    role: Role

    def plain(self) -> dict[str, Any]:
        """Return the metadata of a replica, JSON values."""
        role = self.role
        return {
            "url": self.url,
            "revision": role.revision,
            "settings": dict(role.settings),
            "key": role.key,
        }

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Member:
        """Return the member that a replica's metadata describes."""
        role = Role(metadata["settings"], metadata["revision"], metadata["key"])
        return cls(metadata["url"], role)


Members = tuple[Member, ...]


def urls_of(members: Members, revision: int) -> tuple[str, ...]:
    """Return the URLs of the engines of this revision."""
    return tuple(m.url for m in members if m.role.revision == revision)


def newest_role(members: Members) -> Role | None:
    """Return the role of the last deployment that has a running engine."""
    roles = (m.role for m in members)
    return max(roles, key=lambda r: r.revision, default=None)


def should_switch(members: Members, current: int | None, new: int) -> bool:
    """Return whether a front changes to a new revision.

    It does as soon as no fewer engines have the new revision than the current one, so that an update in steps never
    leaves all requests to the first new engine.
    """
    n_new = len(urls_of(members, new))
    n_old = 0 if current is None else len(urls_of(members, current))
    return current != new and n_new > 0 and n_new >= n_old
