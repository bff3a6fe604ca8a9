"""Engines and fronts on a Ray cluster of three nodes on loopback. Run by scripts/test_cluster."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest
import yaml

from tests.clients.exchange import Got, Sent
from tests.clients.readers import reader_of
from tests.cluster.fixed_delay import DelayedDecoder, delayed_role
from tests.cluster.lab import PATIENCE, Load, RayLab, ray_lab, urls
from tests.cluster.test_kuberay import manifest
from tests.serve.test_editors import CAPTURED, replay
from tests.support.serving import AS_GIVEN, flask_client
from turbopilot.base.errors import ServeError
from turbopilot.cluster.members import Metadata
from turbopilot.cluster.roles import ClusterPlan, Door, Role, Size
from turbopilot.cluster.settings import make_settings

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of Ray's own code
]


@pytest.fixture(scope="module")
def lab() -> Iterator[RayLab]:
    with ray_lab() as running:
        yield running


def send(port: int, sent: Sent) -> Got:
    c = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        c.request(
            sent.method,
            sent.path,
            None if sent.body is None else json.dumps(sent.body),
            sent.headers,
        )
        response = c.getresponse()
        headers = {k.lower(): v for k, v in response.getheaders()}
        return Got(response.status, headers, response.read())
    finally:
        c.close()


def test_recorded_clients_get_the_answers_of_a_single_server(lab: RayLab) -> None:
    lab.deploy("recorded", delayed_role(0.0), Size(replicas=3))
    port = lab.port("recorded")
    # Those that read or end the state of a certain engine are in tests/serve.
    asked = [s for s in CAPTURED if s.path != "/v1/events"]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda s: send(port, s), asked))
    with flask_client(decoder=DelayedDecoder(0.0, 4), text=AS_GIVEN) as alone:
        for sent, got in zip(asked, answers, strict=True):
            expected = replay(alone, sent)
            assert got.status == expected.status, (sent, got.data)
            read = reader_of(sent.client)
            assert read(sent, got) == read(sent, expected), sent
    lab.delete("recorded")


def test_lost_node_ends_only_requests_that_had_streamed(lab: RayLab) -> None:
    lab.deploy("lost", delayed_role(0.01), Size(replicas=4))
    engines = lab.engines("lost")
    before = urls(engines.wait_until(lambda found: len(found) == 4, PATIENCE))
    with Load(lab.port("lost"), n_clients=12, n_tokens=60).running() as load:
        load.wait(24)
        lab.lose_node()
        left = urls(engines.wait_until(lambda found: len(found) < 4, PATIENCE))
        lab.add_node()
        healed = urls(engines.wait_until(lambda found: len(found) == 4, PATIENCE))
        load.wait(24)
    assert left < before
    assert len(healed) == 4
    assert healed - before, "Ray has not replaced the lost engines"
    load.check()
    # Those that ran on the lost node, each with one error after its text.
    assert 0 < len(load.failed) <= 12
    assert all(s.text for s in load.failed)
    lab.delete("lost")


@pytest.mark.parametrize("surge", [True, False])
def test_update_under_load_loses_no_request(lab: RayLab, surge: bool) -> None:
    name = f"update-{surge}"
    lab.deploy(name, delayed_role(0.01, revision=1), Size(replicas=3))
    engines = lab.engines(name)

    def is_new(found: Metadata) -> bool:
        return len(found) == 3 and all(m["revision"] == 2 for m in found)

    with Load(lab.port(name), n_clients=8, n_tokens=60).running() as load:
        load.wait(16)
        role = delayed_role(0.01, revision=2)
        lab.deploy(name, role, Size(replicas=3, surge=surge), waits=False)
        assert is_new(engines.wait_until(is_new, 2 * PATIENCE))
        lab.wait_for_revision(name, 2)
        load.wait(16)
    load.check()
    assert load.failed == []
    lab.delete(name)


def test_queue_adds_engines(lab: RayLab) -> None:
    size = Size(replicas=1, max_replicas=3, busy=4)
    lab.deploy("queue", delayed_role(0.02), size)
    engines = lab.engines("queue")
    assert len(engines.wait_until(bool, PATIENCE)) == 1
    with Load(lab.port("queue"), n_clients=12, n_tokens=60).running() as load:
        found = engines.wait_until(lambda found: len(found) == 3, PATIENCE)
        load.wait(24)
    assert len(found) == 3
    load.check()
    assert load.failed == []
    lab.delete("queue")


def test_configuration_file_deploys_the_same(lab: RayLab, demo_gguf: Path) -> None:
    """Deploy what KubeRay's RayService sends to Ray."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    service, _ = manifest()
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    engines, front = (a["args"] for a in config["applications"])
    engines |= {"model": str(demo_gguf), "num_gpus": 0, "num_cpus": 1, "options": {"ctx": 512}}
    front |= {"host": "127.0.0.1", "port": 0}
    _get_global_client().deploy_apps(ServeDeploySchema(**config))
    port = lab.port("turbopilot")
    body = {"prompt": "def add(a, b):\n    return", "max_tokens": 8}
    assert send(port, Sent("", "POST", "/v1/completions", {}, body)).status == 200
    lab.delete("turbopilot")


def test_bundled_model_is_deployed_shown_and_deleted(lab: RayLab, demo_gguf: Path) -> None:
    from turbopilot.cluster import admin

    size, door = Size(replicas=2), Door(port=0)
    settings = make_settings(str(demo_gguf), {"ctx": 512, "random_seed": 1}, size, lambda _: None)
    plan = ClusterPlan(Role(settings, 1, "secret"), size, door, "bundled")
    admin.deploy(plan)
    first = admin.state_of("bundled")
    assert first.engines
    assert first.fronts
    assert (first.engines.status, len(first.engines.urls)) == ("RUNNING", 2)
    lab.wait_for_revision("bundled", 1)
    port = int(first.fronts.urls[0].rpartition(":")[2])
    body = {"prompt": "def add(a, b):\n    return", "max_tokens": 8, "temperature": 0}
    got = send(port, Sent("", "POST", "/v1/completions", {}, body))
    assert got.status == 200, got.data
    assert got.json()["choices"][0]["text"]

    # Engines refuse requests without the front's key.
    engine = int(first.engines.urls[0].rpartition(":")[2])
    assert send(engine, Sent("", "POST", "/v1/completions", {}, body)).status == 401

    admin.deploy(ClusterPlan(Role(settings, 2, "another"), size, door, "bundled"))
    second = admin.state_of("bundled")
    assert second.engines
    assert second.fronts
    assert second.engines.revisions == (2,)
    assert second.fronts.urls == first.fronts.urls, "the front runs on through updates"
    assert send(port, Sent("", "POST", "/v1/completions", {}, body)).status == 200

    missing = {**settings, "model": "/missing/model.gguf"}
    with pytest.raises(ServeError, match=r"/missing/model\.gguf"):
        admin.deploy(ClusterPlan(Role(missing, 3, "third"), size, door, "bundled"))
    assert send(port, Sent("", "POST", "/v1/completions", {}, body)).status == 200
    assert admin.delete("bundled")
    assert admin.state_of("bundled") == admin.ClusterState(None, None)
    assert not admin.delete("bundled")
