"""Tests of trace_request, which counts the files and types of a request and enforces limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "trace_request.py"


def trace(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=300
    )


def test_files_and_types_of_a_request_are_listed() -> None:
    done = trace("--most-files", "52", "--most-types", "24")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert {"serve/engine/engine.py", "serve.engine.sequence.Sequence*"} <= set(lines)
    assert "serve.engine.engine.Engine" in lines  # serves all requests


def test_more_types_than_allowed_fail() -> None:
    done = trace("--most-files", "99", "--most-types", "1")
    assert (done.returncode, done.stderr) == (1, "too many types\n")
