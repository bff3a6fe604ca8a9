"""The front of the cluster: the server that editors connect to, before the engines."""

from __future__ import annotations

import logging
from typing import Any

from serve.http.channel import MAX_CONNECTIONS
from serve.http.server import bind
from turbopilot.base.errors import ServeError
from turbopilot.cluster.http_thread import HttpThread
from turbopilot.cluster.members import BOARD
from turbopilot.cluster.roles import Door, Role
from turbopilot.cluster.version_switch import ServedRevision, VersionSwitch

log = logging.getLogger("turbopilot.cluster")


class FrontReplica:
    """Replica of the front's deployment. It learns from the engines what they serve, so it runs on through updates.

    Args:
        application: name of the engines' application in Ray Serve.
        door: where to listen.
    """

    def __init__(self, application: str, door: Door) -> None:
        self._door = door
        self._switch = VersionSwitch(self.open_revision)
        self._http = HttpThread(self._switch, bind(door.host, door.port), threads=MAX_CONNECTIONS)
        self._http.start()
        BOARD.listen(self._switch.update)
        self._first_call = _subscribe(application)
        log.info("front    %s", self._http.url)

    def open_revision(self, role: Role) -> ServedRevision:
        """Return a server before engines; tests override it."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what `cluster status` shows of this front."""
        door = {"host": self._door.host, "port": self._door.port, "fronts": self._door.fronts}
        found = {"url": self._http.url, "revision": self._switch.revision, "door": door}
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


def _subscribe(application: str) -> Any:
    """Make Ray tell this process which engines run (see `MemberRouter`).

    A handle begins to listen with its first call, which waits for an engine. Return that call, which must be kept.
    """
    from ray import serve

    from turbopilot.cluster.roles import ENGINE

    return serve.get_deployment_handle(ENGINE, application).describe.remote()
