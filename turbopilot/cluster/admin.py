"""Deploy, inspect and delete the application on a Ray cluster, from any machine that reaches it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from turbopilot.base.errors import ServeError
from turbopilot.cluster.members import board_of
from turbopilot.cluster.ray_library import load_ray, subscribe
from turbopilot.cluster.roles import ENGINE, FRONT, ClusterPlan, Door, front_name

LOCAL: Final = "local"
# Ray's object store takes 30 % of the memory by default; no request or token passes through it.
OBJECT_STORE_BYTES: Final = 100 * 2**20
_ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """State of the engines or of the fronts.

    Attributes:
        status: Ray Serve's word, such as "RUNNING", "DEPLOYING" or "DEPLOY_FAILED".
        replicas: number of replicas by Ray Serve's state, such as {"RUNNING": 3, "STARTING": 1}.
        urls: of the running replicas.
        revisions: of the running engines; two during an update.
    """

    status: str
    replicas: Mapping[str, int]
    urls: tuple[str, ...]
    revisions: tuple[int, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """State of an application; None for what is not deployed."""

    engines: DeploymentState | None
    fronts: DeploymentState | None


class NoCluster(ServeError):
    """There is no Ray cluster at the address."""


@contextmanager
def connected(address: str, *, starts: bool = False) -> Iterator[None]:
    """Connect to a Ray cluster until the end of the block.

    Args:
        address: HOST:PORT; "auto" for the cluster of this machine; "local" for one that listens on loopback only.
        starts: whether to start the cluster "local", which then ends with the block.

    Raises:
        RayMissing: Ray is not installed.
        NoCluster: there is none at this address.
    """
    is_local = address == LOCAL
    if is_local:
        # By this variable, Ray listens on loopback only, as it does by default on macOS and Windows.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = load_ray()
    more: dict[str, Any] = {"address": "auto" if is_local and not starts else address}
    if starts:
        more |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(log_to_driver=False, logging_level="error", **more)
    except (ConnectionError, ValueError) as e:
        raise NoCluster(
            f"--address {address}: no Ray cluster ({str(e).splitlines()[0].rstrip('.')})",
            hint="start one with `ray start --head`, or on this machine alone with "
            "`turbopilot cluster deploy --address local`",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def deploy(plan: ClusterPlan) -> None:
    """Deploy or update the engines, and the fronts if they are missing or listen elsewhere. Return when both run.

    Raises:
        ServeError: an engine or a front cannot start; earlier engines still run.
    """
    from ray import serve

    from turbopilot.cluster.application import engine_application, front_application

    serve.start(proxy_location="Disabled")  # our fronts take its place
    surges = plan.size.surges(load_ray().available_resources())
    _run(engine_application(plan, surges=surges), plan.name, ENGINE)
    if _door(plan.name) != plan.door:
        _run(front_application(plan), front_name(plan.name), FRONT)


def _run(application: Any, name: str, what: str) -> None:
    from ray import serve

    try:
        serve.run(application, name=name, route_prefix=None)
    except RuntimeError:
        told = serve.status().applications[name].deployments[what].message
        raise ServeError(
            f"the {what} of {name} cannot start: {_last_line(told)}",
            hint="see Ray's logs on the nodes, in /tmp/ray/session_latest/logs/serve",
        ) from None


def _last_line(text: str) -> str:
    """Return the error of a traceback."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "unknown")


def _door(name: str) -> Door | None:
    """Return the `Door` of the running fronts of an application; None if there are none."""
    from ray import serve

    found = serve.status().applications.get(front_name(name))
    if found is None or str(found.status.value) != "RUNNING":
        return None
    told = subscribe(FRONT, front_name(name)).result(timeout_s=_ANSWER_SECONDS)
    return Door(**told["door"])


def state_of(name: str) -> ClusterState:
    """Return the state of an application."""
    return ClusterState(_state(name, ENGINE), _state(front_name(name), FRONT))


def _state(application: str, deployment: str) -> DeploymentState | None:
    from ray import serve

    found = serve.status().applications.get(application)
    if found is None:
        return None
    told = found.deployments[deployment]
    replicas = {str(state): n for state, n in told.replica_states.items()}
    running: tuple[Mapping[str, Any], ...] = ()
    failure = ""
    if n_running := replicas.get("RUNNING", 0):
        call = subscribe(deployment, application)
        board = board_of(application)
        running = board.wait_until(lambda found: len(found) >= n_running, _ANSWER_SECONDS)
        failure = call.result(timeout_s=_ANSWER_SECONDS).get("failure", "")
    return DeploymentState(
        str(found.status.value),
        replicas,
        tuple(sorted(m["url"] for m in running)),
        tuple(sorted({m["revision"] for m in running if "revision" in m})),
        found.message or told.message or failure,
    )


def delete(name: str) -> bool:
    """Delete the fronts, then the engines, and return when their requests have ended; False if there were none."""
    from ray import serve

    there = [n for n in (front_name(name), name) if n in serve.status().applications]
    for application in there:
        serve.delete(application)
    return bool(there)
