"""Options of `turbopilot worker`: which devices it lends, and how much of their memory. Run by scripts/test_devices."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.devices.lab import ENVIRONMENT, loader, worker
from turbopilot.base.machine import free_bytes
from turbopilot.llama.rpc import has_rpc

pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
]
MIB = 2**20


def test_worker_reports_and_lends_no_more_than_its_limit(demo_gguf: Path) -> None:
    """Check also that memory in use is not reported as free."""
    with worker("--memory", "600MiB") as w, loader() as child:
        assert any(x.startswith("lends") and "629.1 MB" in x for x in w.lines)
        found = child.load(demo_gguf, workers=[w.address], keeps=True)
        use = found["uses"][1]
        assert use["free_before"] == 600 * MIB
        taken = use["weights"] + use["kv"] + use["compute"]
        assert use["free_before"] - use["free_after"] == pytest.approx(taken, rel=0.01)
        child.load(demo_gguf, n_gpu_layers=0)
        again = child.load(demo_gguf, workers=[w.address])
        assert again["uses"][1]["free_before"] == 600 * MIB  # all was freed


def test_model_larger_than_the_limit_keeps_layers_on_the_cpu(demo_gguf: Path) -> None:
    with worker("--memory", "11MiB") as w, loader() as child:
        found = child.load(demo_gguf, workers=[w.address], margin=0, model={"ctx": 256})
        here, there = found["uses"]
        assert here["layers"] > 0
        assert there["layers"] > 0
        assert there["weights"] + there["kv"] + there["compute"] <= 11 * MIB
        assert found["greedy"] == child.load(demo_gguf, n_gpu_layers=0)["greedy"]


def test_head_that_ignores_the_limit_gets_no_memory(demo_gguf: Path) -> None:
    with worker("--memory", "4MiB") as w, loader() as child:
        found = child.load(demo_gguf, workers=[w.address], n_gpu_layers=999)
        assert found["error"] == "MemoryShort"
        again = child.load(demo_gguf, workers=[w.address], n_gpu_layers=1, model={"ctx": 256})
        assert "error" in again or again["uses"][1]["weights"] <= 4 * MIB


def test_processor_lends_free_memory_by_default(demo_gguf: Path) -> None:
    with worker() as w, loader() as child:
        found = child.load(demo_gguf, workers=[w.address])
        assert found["uses"][1]["free_before"] <= free_bytes() * 1.5


def test_device_can_be_chosen() -> None:
    with worker("--device", "cpu") as w:
        assert any(x.startswith("lends    CPU") for x in w.lines)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--device", "CUDA7"], "--device CUDA7: no such device"),
        (["--memory", "much"], "--memory much: not a size"),
    ],
)
def test_other_values_are_errors(arguments: list[str], error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "worker", "--port", "0", *arguments],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"error: {error}" in done.stderr


def test_other_address_than_loopback_is_warned_about() -> None:
    with worker(host="0.0.0.0") as w:
        (warning,) = [x for x in w.lines if x.startswith("warning")]
        assert "has no authentication" in warning
    with worker() as w:
        assert not any(x.startswith("warning") for x in w.lines)
