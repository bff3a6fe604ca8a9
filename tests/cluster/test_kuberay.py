"""The KubeRay manifest: its configuration of Ray Serve is one that our builders accept."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from turbopilot.base.errors import InvalidInput
from turbopilot.cluster import builders
from turbopilot.cluster.roles import ClusterPlan, Door, Size, front_name

MANIFEST = Path(__file__).parents[2] / "deploy/kuberay/rayservice.yaml"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[ClusterPlan]:
    """Return the plans that builders make into applications."""
    found: list[ClusterPlan] = []
    for name in ("engine_application", "front_application"):
        monkeypatch.setattr(builders, name, lambda plan, **_: found.append(plan))
    return found


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    service, address = yaml.safe_load_all(MANIFEST.read_text("utf-8"))
    return service, address


def test_applications_of_the_manifest_are_built(built: list[ClusterPlan]) -> None:
    service, _ = manifest()
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    names = [a["name"] for a in config["applications"]]
    for application in config["applications"]:
        module, _, name = application["import_path"].partition(":")
        getattr(importlib.import_module(module), name)(application["args"])
    engines, front = built
    assert names == [front.name, front_name(front.name)]
    assert engines.size == Size(replicas=2, max_replicas=4, num_gpus=1, num_cpus=2)
    assert engines.role.settings["model"] == "/models/codegen-350m-q4_0.gguf"
    assert engines.role.settings["parallel"] == "8"
    assert engines.role.key
    assert front.door == Door("0.0.0.0", 18080)


def test_address_of_the_manifest_is_the_front(built: list[ClusterPlan]) -> None:
    service, address = manifest()
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
    assert address["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    ports = {p["name"]: p["containerPort"] for p in head["spec"]["containers"][0]["ports"]}
    (served,) = address["spec"]["ports"]
    assert ports[served["targetPort"]] == served["port"] == Door().port


@pytest.mark.parametrize("build", [builders.engines, builders.front])
def test_unknown_argument_is_refused(build: Any, built: list[ClusterPlan]) -> None:
    with pytest.raises(InvalidInput, match="replica_s"):
        build({"replica_s": 2})
    assert built == []
