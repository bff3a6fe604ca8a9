"""`turbopilot cluster` without Ray."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from typer.testing import CliRunner

from turbopilot.cli import app


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def found(name: str, *more: Any) -> Any:
        return None if name == "ray" else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", found)


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("verb", ["deploy", "status", "delete"])
def test_error_names_the_command_that_installs_ray(verb: str) -> None:
    done = CliRunner().invoke(app, ["cluster", verb])
    assert done.exit_code == 8
    assert "pip install 'turbopilot[cluster]'" in " ".join(done.output.split())


def test_wrong_size_is_refused_before_ray_is_needed() -> None:
    done = CliRunner().invoke(app, ["cluster", "deploy", "--replicas", "3", "--max-replicas", "2"])
    assert done.exit_code == 2
    assert "--max-replicas 2: fewer than --replicas 3" in done.output


def test_unknown_verb_is_refused() -> None:
    done = CliRunner().invoke(app, ["cluster", "destroy"])
    assert done.exit_code == 2
    assert "destroy: no such command" in done.output
