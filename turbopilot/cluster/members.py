"""The engines that a front can send requests to, as Ray Serve reports them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from turbopilot.cluster.roles import Role


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
    def read(cls, metadata: Mapping[str, Any]) -> Member | None:
        """Return the member that a replica's metadata describes; None if it has none yet."""
        if not metadata:
            return None
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


class MemberBoard:
    """The engines known to this process. Ray's router writes it, the front reads it; callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: Members = ()
        self._tell: Callable[[Members], None] = lambda _: None

    def put(self, members: Iterable[Member]) -> None:
        """Replace the engines, and tell the listener if they have changed."""
        found = tuple(sorted(members, key=lambda m: m.url))
        with self._lock:
            if found == self._members:
                return
            self._members = found
            tell = self._tell
        tell(found)

    def listen(self, tell: Callable[[Members], None]) -> None:
        """Call a function with the engines now, and after each change."""
        with self._lock:
            self._tell = tell
            members = self._members
        tell(members)


BOARD: Final = MemberBoard()  # a process runs one front
