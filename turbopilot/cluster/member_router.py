"""Ray Serve's request router for engines and fronts, which reports to a process which of them run.

Ray calls `update_replicas` in each process that holds a handle of the deployment, whenever a replica starts to run,
leaves, or is lost with its node. Ray copies this module into other processes, so its method imports
the boards: a copy of the module would have boards of its own.

Source: docs.ray.io, "Use custom algorithm for request routing"; `ray.serve.request_router`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import FIFOMixin, RequestRouter


class MemberRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # ray has no types here
    """Router that reports the running replicas; it routes no requests but `describe`."""

    async def choose_replicas(
        self, candidate_replicas: Sequence[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Return all replicas as one rank."""
        return [list(candidate_replicas)]

    def update_replicas(self, replicas: Sequence[Any]) -> None:
        """Put the metadata of the running replicas on the board of this process."""
        super().update_replicas(replicas)
        from turbopilot.cluster.members import board_of

        board_of(self.app_name).put(r.replica_metadata for r in replicas)
