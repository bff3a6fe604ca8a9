"""The Ray Serve application: a deployment of engines and one of fronts."""

from __future__ import annotations

from typing import Any, Final

from turbopilot.cluster import scaling
from turbopilot.cluster.engine_replica import STOP_SECONDS, EngineReplica
from turbopilot.cluster.front_replica import FrontReplica
from turbopilot.cluster.ray_library import load_ray
from turbopilot.cluster.roles import ENGINE, FRONT, ClusterPlan, Size

HEALTH_SECONDS: Final = 5.0  # between two health checks; a lost process is noticed at once
# Seconds that more (fewer) open requests must last before replicas are added (removed).
UPSCALE_SECONDS: Final = 5.0
DOWNSCALE_SECONDS: Final = 300.0
LOOK_BACK_SECONDS: Final = 10.0  # open requests are averaged over this time
MOST_STARTS: Final = 3  # of one engine, if it fails, until a deployment has failed
HEAD: Final = "node:__internal_head__"  # a resource that Ray gives the head node


def engine_application(
    plan: ClusterPlan, engine: type[EngineReplica] = EngineReplica, *, surges: bool = False
) -> Any:
    """Return the application of the engines for `ray.serve.run`.

    Args:
        plan: what to deploy.
        engine: class of the replicas, for tests.
        surges: see `Size.surges`.
    """
    load_ray()
    from ray import serve

    size = plan.size
    deployment = serve.deployment(engine).options(
        name=ENGINE,
        **_number(size),
        ray_actor_options={"num_cpus": size.num_cpus, "num_gpus": size.num_gpus},
        max_constructor_retry_count=MOST_STARTS,
        max_surge_percent=25 if surges else 0,  # rounded up: at least one more
        graceful_shutdown_timeout_s=STOP_SECONDS,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=4 * HEALTH_SECONDS,
        request_router_config=_router(),
    )
    return deployment.bind(plan.role)


def front_application(plan: ClusterPlan, front: type[FrontReplica] = FrontReplica) -> Any:
    """Return the application of the fronts, which is deployed once: updates of the engines leave it running.

    Args:
        plan: what to deploy.
        front: class of the replicas, for tests.
    """
    load_ray()
    from ray import serve

    on_head = plan.door.fronts == 1
    deployment = serve.deployment(front).options(
        name=FRONT,
        num_replicas=plan.door.fronts,
        max_replicas_per_node=None if on_head else 1,
        # A front takes little, and must fit where engines have reserved all processors.
        ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001} if on_head else {}},
        graceful_shutdown_timeout_s=STOP_SECONDS,
        health_check_period_s=HEALTH_SECONDS,
        request_router_config=_router(),
    )
    return deployment.bind(plan.name, plan.door)


def _router() -> dict[str, Any]:
    from turbopilot.cluster.member_router import MemberRouter

    return {"request_router_class": MemberRouter}


def _number(size: Size) -> dict[str, Any]:
    if not size.scales:
        return {"num_replicas": size.replicas}
    policy = f"{scaling.__name__}:{scaling.queue_policy.__name__}"
    return {
        "autoscaling_config": {
            "min_replicas": size.replicas,
            "max_replicas": size.max_replicas,
            "target_ongoing_requests": size.busy,
            "upscale_delay_s": UPSCALE_SECONDS,
            "downscale_delay_s": DOWNSCALE_SECONDS,
            "look_back_period_s": LOOK_BACK_SECONDS,
            "policy": {"policy_function": policy},
        }
    }
