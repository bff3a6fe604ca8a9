"""Loading and configuration of the library `ray`, which only `turbopilot[cluster]` installs."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any, Final

from turbopilot.base.errors import ServeError

# Environment of Ray on this machine, unless the user has set it; processes that Ray starts here inherit it.
ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray sends them to its makers by default
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "2",  # seconds; the default, 10, scales late
}


class RayMissing(ServeError):
    """The extra `cluster` is not installed."""


def load_ray() -> Any:
    """Return the module `ray`, with its environment set.

    Raises:
        RayMissing: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise RayMissing(
            "turbopilot cluster needs Ray Serve, which is not installed",
            hint="pip install 'turbopilot[cluster]' (about 400 MB), on every machine of the cluster",
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.serve  # sets up its logger

    # `cluster status` shows what matters to a user.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return ray


def node_address() -> str:
    """Return the IP address of this node in the cluster."""
    import ray.util

    address: str = ray.util.get_node_ip_address()
    return address


def subscribe(deployment: str, application: str) -> Any:
    """Make Ray report to this process which replicas of a deployment run (see `MemberRouter` and `board_of`).

    A handle begins to listen with its first call, which waits for a replica. Return that call; keep it, and take the
    result of `describe` from it if it is wanted.
    """
    from ray import serve

    return serve.get_deployment_handle(deployment, application).describe.remote()
