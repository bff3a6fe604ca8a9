"""The way of a request can be counted, and held to a budget."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "trace_request.py"


def trace(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=300
    )


def test_what_a_request_passes_through_is_listed() -> None:
    done = trace("--most-files", "31", "--most-types", "18")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert {"serve/engine/engine.py", "serve.engine.sequence.Sequence*"} <= set(lines)
    assert "serve.engine.engine.Engine" in lines  # serves all requests


def test_too_many_types_fail() -> None:
    done = trace("--most-files", "99", "--most-types", "1")
    assert (done.returncode, done.stderr) == (1, "too many types\n")
