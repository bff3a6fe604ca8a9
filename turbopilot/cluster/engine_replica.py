"""An engine of the cluster: a server of the model, in the process that Ray starts and watches."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any, Final

from serve.http.app import create_app
from serve.http.server import bind
from serve.models import ModelPool
from serve.settings import SPARE_HTTP_THREADS, ServerOptions
from turbopilot.base.errors import ServeError
from turbopilot.cluster.http_thread import HttpThread, load_default
from turbopilot.cluster.members import Member
from turbopilot.cluster.ray_library import node_address
from turbopilot.cluster.roles import DRAIN_SECONDS, Role
from turbopilot.cluster.scaling import OPEN
from turbopilot.cluster.settings import read_role
from turbopilot.llama.footprint import DEFAULT_PARALLEL

log = logging.getLogger("turbopilot.cluster")

# Seconds that an engine still accepts requests after Ray has told the fronts that it leaves.
LINGER_SECONDS: Final = 8.0
STOP_SECONDS: Final = LINGER_SECONDS + DRAIN_SECONDS + 10.0


class EngineReplica:
    """Replica of the deployment `engine`. Ray calls its `record_…` methods and `check_health`.

    Args:
        role: see `Role`.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._left = threading.Event()
        self._models, options = self.load(role)
        host = node_address()
        security = replace(
            options.security, api_keys=(role.key,) if role.key else (), api_key_file=None, host=host
        )
        app = create_app(self._models, options.request_defaults, security, options.shown)
        n_open = (options.model.n_seq or DEFAULT_PARALLEL) + options.limits.max_queue
        threads = n_open + SPARE_HTTP_THREADS
        self._http = HttpThread(app, bind(host, 0), threads=threads)
        self._http.start()
        load_default(self._models)
        log.info("ready    %s, revision %s", self._http.url, role.revision)

    def load(self, role: Role) -> tuple[ModelPool, ServerOptions]:
        """Return the models and the options of the server; tests override it."""
        from serve.models.loading import make_pool

        options = read_role(role)
        return make_pool(options, log.info), options

    def record_replica_metadata(self) -> dict[str, Any]:
        """Return what the fronts learn about this replica."""
        return Member(self._http.url, self._role).plain()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the open requests for `queue_policy`."""
        return {OPEN: float(sum(s.running + s.waiting for s in self._models.statuses))}

    def check_health(self) -> None:
        """Raise ServeError if the model cannot answer any more; Ray then replaces this replica."""
        default = self._models.statuses[0]
        if default.state in ("failed", "stalled") or not self._http.is_alive:
            raise ServeError(f"{default.name}: {default.state} {default.reason}".rstrip())

    def describe(self) -> dict[str, Any]:
        """Return the URL and the revision."""
        return {"url": self._http.url, "revision": self._role.revision}

    def __del__(self) -> None:
        """Leave the cluster: accept requests for a moment, let the running ones finish, then stop.

        Ray calls it once before it ends the process, after it has told the fronts.
        """
        if getattr(self, "_http", None) is None or self._left.is_set():
            return
        self._left.set()
        time.sleep(LINGER_SECONDS)
        self._models.drain()
        self._http.refuse()
        self._models.wait_until_idle(DRAIN_SECONDS)
        self._models.request_stop()
        self._http.stop()
        self._models.close()
