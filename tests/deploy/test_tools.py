"""Linters and the programs themselves accept the files of deploy/."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.deploy.containers import run
from tests.deploy.files import COMPOSE, KUBERNETES, ROOT, UNITS

pytestmark = pytest.mark.images


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_hadolint_finds_nothing(name: str) -> None:
    need("hadolint")
    run("hadolint", name)


def test_manifests_are_valid(tmp_path: Path) -> None:
    need("kubectl", "kubernetes-validate")
    manifests = tmp_path / "manifests.yaml"
    manifests.write_text(run("kubectl", "kustomize", str(KUBERNETES)), "utf-8")
    run("kubernetes-validate", "--strict", str(manifests))


def test_prometheus_accepts_its_configuration() -> None:
    need("promtool")
    run("promtool", "check", "config", "--syntax-only", str(COMPOSE / "prometheus.yml"))


def test_caddy_accepts_its_configuration() -> None:
    need("caddy")
    run("caddy", "validate", "--adapter", "caddyfile", "--config", str(COMPOSE / "Caddyfile"))


@pytest.mark.parametrize(
    "files", [["compose.yaml"], ["compose.yaml", "cuda.yaml"]], ids=["cpu", "cuda"]
)
def test_compose_file_is_valid(files: list[str]) -> None:
    need("docker")
    try:
        run("docker", "compose", "version")
    except AssertionError:
        pytest.skip("docker compose is not installed")
    given = [word for name in files for word in ("-f", str(COMPOSE / name))]
    run("docker", "compose", *given, "config", "--quiet")


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_exposure_of_a_unit_stays_low(unit: Path) -> None:
    need("systemd-analyze")
    run("systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit))


def test_scripts_of_the_images_pass_shellcheck() -> None:
    need("shellcheck")
    run(
        "shellcheck", "-x", *(str(ROOT / "scripts" / n) for n in ("install", "sbom", "test_images"))
    )
