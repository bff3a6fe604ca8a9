"""Images, compose file, units and manifests agree with the program, and with each other."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.settings import DEFAULT_PORT
from tests.deploy.files import (
    COMPOSE,
    KUBERNETES,
    OPTION_VARIABLES,
    ORIGINAL_VARIABLES,
    OTHER_VARIABLES,
    ROOT,
    UNITS,
    documents,
    flags_of,
    image_environment,
    instructions,
    manifests,
    unit_settings,
)
from tests.serve.test_pool_http import complete, pool_of, says

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKERFILES = [ROOT / "Dockerfile", ROOT / "Dockerfile.cuda"]
VARIABLES = {*OPTION_VARIABLES, *OTHER_VARIABLES}
SELECTOR = re.compile(r"\b((?:turbopilot|process)_\w+)\{([^}]*)\}")


def ours(name: str) -> bool:
    return name.startswith(("TURBOPILOT_", "HF_"))


def kustomization() -> Any:
    (found,) = documents(KUBERNETES / "kustomization.yaml")
    return found


def literals(name: str) -> dict[str, str]:
    """Return the variables of a ConfigMap that Kustomize generates."""
    (found,) = (m["literals"] for m in kustomization()["configMapGenerator"] if m["name"] == name)
    return dict(line.split("=", 1) for line in found)


def test_variables_of_the_original_are_options() -> None:
    assert set(ORIGINAL_VARIABLES) <= OPTION_VARIABLES


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_variables_of_an_image_exist_and_leave_the_originals_unset(path: Path) -> None:
    variables = image_environment(path)
    assert {name for name in variables if ours(name)} <= VARIABLES
    assert variables["TURBOPILOT_HOST"] == "0.0.0.0"
    assert not {*variables} & {*ORIGINAL_VARIABLES}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_image_serves_on_the_default_port_without_root(path: Path) -> None:
    found = dict(instructions(path))
    assert found["EXPOSE"] == str(DEFAULT_PORT)
    assert f"'TURBOPILOT_PORT', {DEFAULT_PORT}" in found["HEALTHCHECK"]
    assert int(found["USER"]) > 0
    assert json.loads(found["ENTRYPOINT"]) + json.loads(found["CMD"]) == ["turbopilot", "serve"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_base_images_are_pinned_by_digest(path: Path) -> None:
    arguments = dict(a.split("=", 1) for name, a in instructions(path) if name == "ARG")
    stages = [a.split()[0] for name, a in instructions(path) if name == "FROM"]
    assert stages == ["${RUNTIME_BASE}", "${BUILD_BASE}", "runtime"]
    for name in ("BUILD_BASE", "RUNTIME_BASE"):
        value = arguments[name].replace("${BUILD_BASE}", arguments["BUILD_BASE"])
        assert re.fullmatch(r"docker\.io/[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", value)


def test_build_context_holds_every_copied_and_installed_file() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in allowed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= allowed
    copied = [a.split() for name, a in instructions(ROOT / "Dockerfile") if name == "COPY"]
    sources = {words[0] for words in copied if not words[0].startswith("--")} - {"."}
    assert all((ROOT / s).exists() and s.partition("/")[0] in allowed for s in sources)


def test_compose_file_passes_on_existing_variables() -> None:
    (compose,) = documents(COMPOSE / "compose.yaml")
    names = [v.partition("=")[0] for v in compose["services"]["turbopilot"]["environment"]]
    assert set(ORIGINAL_VARIABLES) <= set(names)
    assert set(names) <= VARIABLES


def test_services_of_the_compose_file_reach_the_server_by_its_host_name() -> None:
    (compose,) = documents(COMPOSE / "compose.yaml")
    (prometheus,) = documents(COMPOSE / "prometheus.yml")
    address = f"{compose['services']['turbopilot']['hostname']}:{DEFAULT_PORT}"
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [address]}]
    caddyfile = (COMPOSE / "Caddyfile").read_text("utf-8")
    assert f"reverse_proxy {{$TURBOPILOT:{address}}} {{" in caddyfile
    secrets = {f"/run/secrets/{name}" for name in compose["secrets"]}
    assert job["authorization"]["credentials_file"] in secrets


def test_every_file_that_the_compose_file_mounts_exists() -> None:
    (compose,) = documents(COMPOSE / "compose.yaml")
    made_by_the_user = {"./models"}
    for service in compose["services"].values():
        sources = {v.partition(":")[0] for v in service.get("volumes", [])}
        named = {*compose["volumes"], *made_by_the_user}
        assert all((COMPOSE / source).exists() for source in sources - named)


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_units_use_existing_options_and_variables(unit: Path) -> None:
    settings = unit_settings(unit)
    for name, value in settings:
        words = shlex.split(value)
        if name == "ExecStart":
            assert words[0] == "/opt/turbopilot/bin/turbopilot"
            assert {w for w in words[2:] if w.startswith("-")} <= flags_of(words[1])
        elif name == "Environment":
            assert {w.partition("=")[0] for w in words} <= VARIABLES


def test_every_unit_is_restricted() -> None:
    # systemd reads drop-ins of all units whose name begins with "turbopilot-" there: systemd.unit(5).
    assert (UNITS[0].parent / "turbopilot-.service.d/10-hardening.conf").is_file()
    assert UNITS
    assert all(unit.name.startswith("turbopilot-") for unit in UNITS)


def test_manifests_use_existing_variables() -> None:
    if "TURBOPILOT_UPSTREAM" not in OPTION_VARIABLES:
        pytest.skip("this version has no --upstream")
    names = {*literals("turbopilot"), *literals("turbopilot-front")}
    for kind in ("Deployment", "StatefulSet"):
        for manifest in manifests(kind):
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            names |= {entry["name"] for entry in container.get("env", [])}
    assert {n for n in names if ours(n)} <= VARIABLES


def test_front_knows_every_replica_of_the_engine() -> None:
    (replicas,) = kustomization()["replicas"]
    name = replicas["name"]
    expected = [f"http://{name}-{i}.{name}:{DEFAULT_PORT}/v1" for i in range(replicas["count"])]
    assert literals("turbopilot-front")["TURBOPILOT_UPSTREAM"].split(",") == expected
    (engine,) = manifests("StatefulSet")
    assert engine["metadata"]["name"] == engine["spec"]["serviceName"] == name


def test_service_named_like_the_program_does_not_set_its_port() -> None:
    # Kubernetes sets NAME_PORT for each Service in a container, unless enableServiceLinks is false.
    services = {m["metadata"]["name"] for m in manifests("Service")}
    assert {f"{name.upper()}_PORT" for name in services} & OPTION_VARIABLES
    (common,) = documents(KUBERNETES / "container.yaml")
    assert common["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_every_metric_and_label_of_the_dashboard_is_exported() -> None:
    path = COMPOSE / "grafana/dashboards/turbopilot.json"
    dashboard = json.loads(path.read_text("utf-8"))
    with pool_of(one=says("one", "yes")) as (_, client):
        complete(client)
        exported = exported_labels(client.get("/metrics").get_data(as_text=True))
    for query in (t["expr"] for panel in dashboard["panels"] for t in panel["targets"]):
        selectors = SELECTOR.findall(query)
        assert selectors, query
        for name, matchers in selectors:
            # Prometheus adds the last two.
            labels = exported[name] | {"job": {"turbopilot"}, "instance": set()}
            for label, sign, value in re.findall(r'(\w+)(=~?)"([^"]*)"', matchers):
                assert sign == "=~" or value in labels[label], query
            assert set(re.findall(r"by \((\w+)\)", query)) <= {*labels}, query
    for variable in dashboard["templating"]["list"]:
        ((name, label),) = re.findall(r"^label_values\((\w+), (\w+)\)$", variable["query"])
        assert label in exported[name]


def exported_labels(text: str) -> dict[str, dict[str, set[str]]]:
    """Return the labels of each sample name, with their values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found
