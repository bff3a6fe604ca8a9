"""Attack scripts: they find planted violations, and the same seed repeats the same cases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from serve.api.openapi import description
from serve.settings import Defaults

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))  # as for the scripts beside it

from attack.gguf_parts import gguf_mutated, taken_apart  # noqa: E402
from attack.processes import ForkServer, Limits  # noqa: E402
from attack.requests import RequestMaker  # noqa: E402
from attack.tally import Tally, cause_of, faults_of  # noqa: E402
from attack.writers import WRITERS, faults_in  # noqa: E402


def attack(script: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{ROOT}/scripts/{script}", "--kept", f"{tmp_path}/kept", *options]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=280)


@pytest.mark.slow
def test_mutated_files_are_fed_to_their_readers(tmp_path: Path) -> None:
    kinds = (
        "gguf",
        "safetensors",
        "pytorch",
        "old ggml",
        "tokenizer.json",
        "config.json",
        "imatrix",
        "prefix cache",
    )
    options = ("--quick", "--jobs", "1", "--minutes", "60", "--kinds", *kinds)
    done = attack("attack_files.py", tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n24 of 24 cases" in done.stdout


@pytest.mark.slow
def test_server_is_sent_hostile_requests(tmp_path: Path) -> None:
    options = (
        "--seed",
        "3",
        "--cases",
        "60",
        "--minutes",
        "60",
        "--patience",
        "250",
        "--health",
        "250",
    )
    done = attack("attack_server.py", tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n60 of 60 cases" in done.stdout


@pytest.mark.slow
def test_killed_and_concurrent_writers_leave_no_torn_file(tmp_path: Path) -> None:
    done = attack("attack_kill.py", tmp_path, "--quick", "--jobs", "1", "--minutes", "60")
    assert "\n2 of 2 cases" in done.stdout, done.stdout + done.stderr
    assert not {"torn", "missing", "left over", "orphan", "hang"} & _found(done.stdout), done.stdout


def _found(output: str) -> set[str]:
    """Return the kinds of violations that a script reports."""
    lines = [line for line in output.splitlines() if line.startswith("violation: ")]
    return {line.split(": ")[2].partition(",")[0] for line in lines}


@pytest.mark.parametrize(
    ("code", "output", "fault"),
    [
        (-11, "", "signal"),
        (-24, "", "hang"),
        (1, "", "exit code"),
        (
            2,
            f'Traceback (most recent call last):\n  File "{ROOT}/serve/x.py"\nKeyError',
            "traceback",
        ),
        (1, "error: out of memory", "memory"),
        (2, "x" * 200_000, "noise"),
        (2, "error: \x1b[2J", "escape"),
    ],
)
def test_bad_ends_are_violations(code: int, output: str, fault: str) -> None:
    assert fault in set(faults_of(code, output, {0, 2}))


def test_refusal_is_allowed() -> None:
    assert not list(faults_of(2, "error: model.gguf: truncated", {0, 2}, memory=5, limit=9))


def test_torn_and_left_over_files_are_found(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "case"
    for place, data in ((whole, b"whole"), (folder, b"who")):
        place.mkdir()
        (place / "out.gguf").write_bytes(data)
    (folder / "out.gguf.0123456789abcdef.part").touch()
    found = {fault for fault, _ in faults_in(WRITERS["convert"], folder, (whole,), ended_well=True)}
    assert found == {"torn", "left over"}
    assert not list(faults_in(WRITERS["convert"], whole, (whole,), ended_well=True))


def test_violation_keeps_its_input_and_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally(tmp_path, 60, 1)
    tally.violation("gguf", "signal", "gguf:7", "serve\nGGML_ASSERT(n > 0)", {"model.gguf": b"x"})
    tally.step()
    assert tally.finish("file", {"signal": "signal"}) == 1
    assert "gguf: signal, 1 times, first in --case gguf:7" in capsys.readouterr().out
    assert [p.read_bytes() for p in tmp_path.rglob("model.gguf")] == [b"x"]


def test_causes_of_violations_leave_out_numbers_and_paths() -> None:
    trace = "verify\nTraceback (most recent call last):\n  File 1\n    x\nKeyError: 7\nmore"
    assert cause_of(trace) == "verify: KeyError: N"


def test_gguf_is_put_together_as_it_was(demo_q4_0: Path) -> None:
    raw = demo_q4_0.read_bytes()
    assert taken_apart(raw).bytes() == raw


def test_mutations_and_requests_repeat(demo_q4_0: Path) -> None:
    raw = demo_q4_0.read_bytes()
    assert gguf_mutated(Random("1 gguf 5"), raw) == gguf_mutated(Random("1 gguf 5"), raw)
    document = json.loads(json.dumps(description(Defaults())))
    first, second = (RequestMaker(document, seed) for seed in (1, 1))
    made = [first.make(i).raw for i in range(300)]
    assert made == [second.make(i).raw for i in range(300)]
    assert len(set(made)) > 250


def test_limits_end_a_command(tmp_path: Path) -> None:
    server = ForkServer(tmp_path, ())
    try:
        server.begin(["--version"], tmp_path, Limits())
        assert server.finish().code == 0
        server.begin(["serve", "--port", "0"], tmp_path, Limits(wall=0.0))
        assert server.finish().late
    finally:
        server.close()
