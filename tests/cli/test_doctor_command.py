"""The command `turbopilot doctor`: output, exit code, JSON and --fix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.app.test_doctor import BUILD, FOR_CUDA, HEALTHY
from turbopilot.app import doctor
from turbopilot.app.doctor import Failed, Machine
from turbopilot.cli import app

Sees = Callable[..., list[str]]


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> Sees:
    """Return a function that sets what the probes find, in turn; its result lists the commands that were run."""

    def prepare(*machines: Machine) -> list[str]:
        found, ran = list(machines), list[str]()
        monkeypatch.setattr(doctor, "look", lambda *_: found.pop(0))

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            ran.append(command[-1])
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("turbopilot.app.doctor.reinstall.subprocess.run", run)
        return ran

    return prepare


def run(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments], input=answer)
    return done.exit_code, done.stdout, done.stderr


def test_well_machine_exits_with_0(sees: Sees) -> None:
    sees(HEALTHY)
    code, out, _ = run()
    assert code == 0
    assert out.splitlines()[-1] == "all is well"


def test_fault_exits_with_1_and_fits_80_columns(
    sees: Sees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sees(replace(HEALTHY, graphics=FOR_CUDA, hub=Failed("it took more than 15 s")))
    code, out, err = run()
    assert code == 1
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-1] == "1 problem, 1 warning"
    assert "→ compile llama.cpp for cuda: turbopilot doctor --fix" in out
    assert err == "", "quiet in a pipe"


def test_json_has_every_check_and_the_command(sees: Sees) -> None:
    sees(replace(HEALTHY, graphics=FOR_CUDA))
    code, out, _ = run("--json")
    found = json.loads(out)
    assert code == 1
    assert found["ok"] is False
    assert found["fix"]["backend"] == "cuda"
    states = {c["name"]: c["state"] for c in found["checks"]}
    assert (states["llama.cpp"], states["gpu"]) == ("warning", "ok")


def test_fix_without_a_terminal_only_prints_the_command(sees: Sees) -> None:
    ran = sees(replace(HEALTHY, graphics=FOR_CUDA))
    code, _, err = run("--fix")
    assert code == 1
    assert "CMAKE_ARGS='-DGGML_CUDA=ON " in err
    assert "--yes" in err
    assert not ran


def test_fix_with_consent_runs_the_command_and_looks_again(sees: Sees) -> None:
    ran = sees(replace(HEALTHY, graphics=FOR_CUDA), HEALTHY)
    code, out, _ = run("--fix", "--yes")
    assert code == 0
    assert "all is well" in out
    (command,) = ran
    assert command.startswith("CMAKE_ARGS='-DGGML_CUDA=ON ")


@pytest.mark.parametrize(("answer", "n"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_fix_asks_before_it_runs(
    sees: Sees, monkeypatch: pytest.MonkeyPatch, answer: str, n: int
) -> None:
    ran = sees(replace(HEALTHY, graphics=FOR_CUDA), HEALTHY)
    monkeypatch.setattr("turbopilot.commands.doctor.is_terminal", lambda: True)
    run("--fix", answer=answer)
    assert len(ran) == n


def test_failed_fix_is_an_error(sees: Sees, monkeypatch: pytest.MonkeyPatch) -> None:
    sees(replace(HEALTHY, build=replace(BUILD, backends=())))
    failed: subprocess.CompletedProcess[str] = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr("turbopilot.app.doctor.reinstall.subprocess.run", lambda *_, **__: failed)
    code, _, err = run("--fix", "--yes")
    assert code == 1
    assert "the reinstallation failed" in err


def test_fix_of_a_well_machine_does_nothing(sees: Sees) -> None:
    ran = sees(HEALTHY)
    code, _, err = run("--fix", "--yes")
    assert code == 0
    assert "need not be compiled again" in err
    assert not ran


def test_bad_url_is_refused() -> None:
    code, _, err = run("--url", "ftp://x")
    assert code == 2
    assert "not an http or https URL" in err


def test_doctor_reports_this_machine() -> None:
    # Without speed, which depends on what else runs.
    command = [sys.executable, "-m", "turbopilot", "doctor", "--offline", "--no-speed", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = json.loads(done.stdout)
    checks = {c["name"]: c for c in found["checks"]}
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    assert checks["speed"]["state"] == checks["hub"]["state"] == "skipped"
    assert checks["processor"]["state"] in ("ok", "skipped"), checks["processor"]
    assert "backends " in checks["llama.cpp"]["found"]
    assert "CPU" in checks["llama.cpp"]["found"]
    assert not [c for c in found["checks"] if "this check failed" in c["found"]]
