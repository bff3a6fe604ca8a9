"""Tests of bench_headline: all steps with a tiny geometry, and enforced memory limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, "scripts/bench_headline.py", "--geometry", "tiny", "--type", "Q4_0"]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory limits need Linux")


def test_all_steps_run_and_temporary_files_are_removed(tmp_path: Path) -> None:
    done = subprocess.run(
        [*SCRIPT, "--folder", str(tmp_path), "--ctx", "256", "--json"],
        cwd=ROOT, env=ENVIRON, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if "memory cannot be limited on this machine" in done.stderr:
        pytest.skip(done.stderr[-500:])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (served,) = found["served"]
    assert served["generated"] == 64
    assert served["prompt_tokens"] == 256 - 64 - 1
    assert served["prompt_speed"] > 0
    assert any(line.startswith("KV cache q8_0") for line in served["report"])
    names = [s["name"].split(":")[0] for s in found["steps"]]
    assert names == ["make the checkpoint", "convert", "quantize Q4_0", *["serve"] * 3]
    convert = found["steps"][1]
    assert convert["verdict"] == "kept"
    assert 20e6 < convert["peak"]["anonymous"] < convert["peak"]["rss"]
    assert found["file_bytes"] < 0.5 * 2 * found["weights"]
    if served["group"]:
        assert served["group"]["oom_kills"] == 0
        assert found["file_bytes"] < served["group"]["peak"] < found["memory"]
    assert not list(tmp_path.iterdir())


def test_interrupted_run_removes_temporary_files(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*SCRIPT, "--folder", str(tmp_path)],
        cwd=ROOT,
        env=ENVIRON,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("make the checkpoint")
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_process_over_its_memory_limit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from bench.memory_limit import memory_limit

    def takes(n: int, limit: int) -> int:
        code = f"x = bytearray({n}); x[::4096] = bytes(len(x[::4096]))"
        try:
            with memory_limit(limit) as limited:
                command = limited.wrap([sys.executable, "-c", code])
                return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        except SystemExit as e:
            pytest.skip(str(e))

    assert takes(50 << 20, 200 << 20) == 0
    assert takes(400 << 20, 200 << 20) != 0
