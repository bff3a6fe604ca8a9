"""The front of the cluster: the server that editors connect to, before the engines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from serve.http.server import bind
from serve.settings import SPARE_HTTP_THREADS, UPSTREAM_PARALLEL
from turbopilot.base.errors import ServeError
from turbopilot.cluster.http_thread import HttpThread
from turbopilot.cluster.members import Member, board_of
from turbopilot.cluster.ray_library import subscribe
from turbopilot.cluster.roles import ENGINE, Door, Role
from turbopilot.cluster.upstream_revision import UpstreamRevision
from turbopilot.cluster.version_switch import ServedRevision, VersionSwitch

log = logging.getLogger("turbopilot.cluster")

# Requests that a front processes at once; each has a thread.
THREADS: Final = 2 * UPSTREAM_PARALLEL + SPARE_HTTP_THREADS


class FrontReplica:
    """Replica of the front's deployment. It learns from the engines what they serve, so it runs on through updates.

    Args:
        application: name of the engines' application in Ray Serve.
        door: address and port to listen on.
    """

    def __init__(self, application: str, door: Door) -> None:
        self._door = door
        self._switch = VersionSwitch(self.open_revision)
        self._http = HttpThread(self._switch, bind(door.host, door.port), threads=THREADS)
        self._http.start()
        board_of(application).listen(
            lambda found: self._switch.update(tuple(map(Member.read, found)))
        )
        self._subscription = subscribe(ENGINE, application)
        log.info("front    %s", self._http.url)

    def open_revision(self, role: Role, urls: Sequence[str]) -> ServedRevision:
        """Return a server before these engines; tests override it."""
        return UpstreamRevision(role, urls, self._door.host)

    def record_replica_metadata(self) -> dict[str, Any]:
        """Return what `cluster status` shows of this front."""
        return {"url": self._http.url}

    def describe(self) -> dict[str, Any]:
        """Return the door, the revision that answers, and why a newer one does not."""
        found = {"door": asdict(self._door), "revision": self._switch.revision}
        return {**found, "failure": self._switch.failure}

    def check_health(self) -> None:
        """Raise ServeError if the server has ended; Ray then replaces this replica."""
        if not self._http.is_alive:
            raise ServeError("the front's HTTP server has ended")

    def __del__(self) -> None:
        """End the server; Ray calls it once before it ends the process."""
        if http := getattr(self, "_http", None):
            http.refuse()
            self._switch.close()
            http.stop()
