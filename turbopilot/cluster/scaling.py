"""Number of engine replicas that the open requests need.

Ray Serve counts requests that pass through its handles; ours do not, so each engine reports its own. Ray copies this
module into its controller, so it imports nothing but the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final

OPEN: Final = "open_requests"  # the metric of `record_autoscaling_stats`: running and queued requests of an engine


def needed_replicas(opened: Collection[float], n_running: int, busy: float) -> int:
    """Return the number of replicas with which each has about `busy` open requests.

    Args:
        opened: open requests of each replica that has reported.
        n_running: number of running replicas; those that have not reported yet are new, and count as the average.
        busy: open requests for each replica to aim at.
    """
    if not opened:
        return n_running
    average = sum(opened) / len(opened)
    return math.ceil(average * max(n_running, len(opened)) / busy - 1e-9)


def queue_policy(context: Any) -> tuple[int, dict[str, Any]]:
    """Autoscaling policy of the engines; Ray applies limits, delays and factors to the result.

    Source: ray.serve.config.AutoscalingContext.
    """
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    opened = (context.aggregated_metrics or {}).get(OPEN, {})
    busy = context.config.get_target_ongoing_requests()
    return max(1, needed_replicas(opened.values(), context.current_num_replicas, busy)), {}
