"""A Ray cluster of three nodes on loopback, and clients that load it."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.fixed_delay import DelayedEngine, FakeFront
from tests.support.fakes import letters
from turbopilot.cluster.application import engine_application, front_application
from turbopilot.cluster.members import Metadata, ReplicaBoard, board_of
from turbopilot.cluster.ray_library import load_ray, subscribe
from turbopilot.cluster.roles import ENGINE, FRONT, ClusterPlan, Door, Role, Size, front_name

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; only a failing test waits that long
NODE = {"object_store_memory": 100 * 2**20, "node_ip_address": "127.0.0.1", "num_cpus": 4}
_ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "scripts"))),  # of Ray's workers
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listen on loopback only
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread of Serve would connect again after ray.shutdown()
    "RAY_AUTH_MODE": "disabled",  # else Ray writes a token to the home folder
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}


class RayLab:
    """Running cluster: a head node for the front, and two nodes for engines."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.nodes = [cluster.add_node(**NODE) for _ in range(2)]
        self._calls: list[Any] = []

    def lose_node(self) -> None:
        """Kill all processes of a node that has engines."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    def add_node(self) -> None:
        self.nodes.append(self._cluster.add_node(**NODE))

    def deploy(
        self,
        name: str,
        role: Role,
        size: Size,
        *,
        engine: type[DelayedEngine] = DelayedEngine,
        waits: bool = True,
    ) -> None:
        """Deploy fake engines, and a front if there is none yet."""
        from ray import serve

        plan = ClusterPlan(role, size, Door(port=0), name)
        engines = engine_application(plan, engine, surges=bool(size.surge))
        if not waits:
            serve._run(engines, name=name, route_prefix=None, _blocking=False)
            return
        serve.run(engines, name=name, route_prefix=None)
        if front_name(name) not in serve.status().applications:
            front = front_application(plan, FakeFront)
            serve.run(front, name=front_name(name), route_prefix=None)

    def engines(self, name: str) -> ReplicaBoard:
        """Return the board of the engines, which Ray keeps up to date."""
        self._calls.append(subscribe(ENGINE, name))
        return board_of(name)

    def port(self, name: str) -> int:
        """Return the front's port once it answers."""
        from ray import serve

        application = front_name(name)
        while serve.status().applications[application].status != "RUNNING":
            pass  # each look is a round trip through Ray
        self._calls.append(subscribe(FRONT, application))
        (front,) = board_of(application).wait_until(bool, PATIENCE)
        self.wait_for_revision(name, None)
        return int(front["url"].rpartition(":")[2])

    def wait_for_revision(self, name: str, revision: int | None) -> None:
        """Return when the front answers with this revision, or with any."""
        from ray import serve

        handle = serve.get_deployment_handle(FRONT, front_name(name))
        while (found := handle.describe.remote().result()["revision"]) is None or (
            revision is not None and found != revision
        ):
            pass  # each look is a round trip through Ray

    def delete(self, name: str) -> None:
        from turbopilot.cluster import admin

        admin.delete(name)


@contextmanager
def ray_lab() -> Iterator[RayLab]:
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    ray = load_ray()
    from ray import serve
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        serve.start(proxy_location="Disabled")
        yield RayLab(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


def urls(found: Metadata) -> set[str]:
    return {m["url"] for m in found}


def expected_text(prompt: str, n: int) -> str:
    """Return what the fake engines answer to a prompt."""
    history = list(prompt.encode())
    for _ in range(n):
        history.append(letters(history))
    return bytes(history[-n:]).decode()


@dataclass(frozen=True, slots=True)
class Streamed:
    """Result of a client: text, an error of the stream or of the request, and the finish reason."""

    prompt: str
    text: str
    error: str
    reason: str


def stream(port: int, prompt: str, n: int) -> Streamed:
    """Request a streamed completion and read it to its end."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    text, error, reason = "", "", ""
    try:
        body = {"prompt": prompt, "max_tokens": n, "stream": True}
        c.request("POST", "/v1/completions", json.dumps(body))
        response = c.getresponse()
        if response.status != 200:
            return Streamed(prompt, "", f"{response.status} {response.read()!r}", "")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                error = event["error"]["message"]
                continue
            for choice in event["choices"]:
                text += choice["text"]
                reason = choice["finish_reason"] or reason
    except (OSError, http.client.HTTPException) as e:
        error = repr(e)
    finally:
        c.close()
    return Streamed(prompt, text, error, reason)


@dataclass
class Load:
    """Clients that request one completion after the other until they are stopped."""

    port: int
    n_clients: int
    n_tokens: int
    done: list[Streamed] = field(default_factory=list)
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    stopping: threading.Event = field(default_factory=threading.Event)

    def _run(self, i: int) -> None:
        n = 0
        while not self.stopping.is_set():
            n += 1
            self.done.append(stream(self.port, f"client {i} request {n}", self.n_tokens))
            self.ended.release()

    def wait(self, n: int) -> None:
        """Wait until `n` further requests have ended."""
        for _ in range(n):
            assert self.ended.acquire(timeout=PATIENCE)

    @property
    def failed(self) -> list[Streamed]:
        return [s for s in self.done if s.error]

    def check(self) -> None:
        """Check that every answer is what its engine says, in whole or until an error."""
        for s in self.done:
            whole = expected_text(s.prompt, self.n_tokens)
            if s.error:
                assert whole.startswith(s.text), s
            else:
                assert (s.text, s.reason) == (whole, "length"), s

    @contextmanager
    def running(self) -> Iterator[Load]:
        threads = [threading.Thread(target=self._run, args=(i,)) for i in range(self.n_clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()
