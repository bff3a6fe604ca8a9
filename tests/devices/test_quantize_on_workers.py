"""Importance matrices, fits and tuning on the devices of two workers on loopback. Run by scripts/test_devices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.imatrix import read_imatrix
from tests.devices.lab import ENVIRONMENT, Worker, worker
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.rpc import has_rpc

pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
]
MB = 10**6


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Worker, Worker]]:
    with worker() as first, worker() as second:
        yield first, second


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "TURBOPILOT_CACHE": str(tmp_path / "cache")}


def run(environment: dict[str, str], *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", *map(str, arguments), "--json"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("layers", ["all", "2"])
def test_importance_matrix_of_workers_equals_that_of_the_processor(
    two: tuple[Worker, Worker],
    environment: dict[str, str],
    demo_gguf: Path,
    tmp_path: Path,
    layers: str,
) -> None:
    common = ("imatrix", demo_gguf, "--chunks", "2", "--ctx", "256", "-t", "1")
    here, there = tmp_path / "here.gguf", tmp_path / "there.gguf"
    run(environment, *common, "--ngl", "0", "-o", here)
    addresses = ",".join(w.address for w in two)
    placed = ("--rpc", addresses, "--ngl", layers, "--tensor-split", "1,1")
    run(environment, *common, *placed, "-o", there)
    local, remote = read_imatrix(here), read_imatrix(there)
    assert set(local.entries) == set(remote.entries)
    for name, entry in local.entries.items():
        other = remote.entries[name]
        assert np.array_equal(entry.counts, other.counts), name
        # Products of F16 matrices are rounded in another order.
        assert np.allclose(entry.sums, other.sums, rtol=2e-2, atol=1e-3 * entry.sums.max()), name


def test_file_for_two_devices_is_measured_there(
    two: tuple[Worker, Worker], environment: dict[str, str], demo_gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.gguf"
    sizes = [12 * MB, 12 * MB]
    found = run(
        environment, "quantize", demo_gguf, "--fit-vram", ",".join(map(str, sizes)), "--ctx", "256", "--parallel", "2",
        "--batch-size", "128", "--imatrix", "none", "--minutes", "0.01", "--compare", "0", "-t", "1",
        "--types", "q4_0,q8_0,f16", "--rpc", ",".join(w.address for w in two), "--tensor-split", "1,1", "-o", out,
    )  # fmt: skip
    fitted = found["fitted"]
    assert fitted["predicted_on_devices"] <= sum(sizes)
    # llama.cpp's buffers: weights and KV cache are exact, and the predicted compute buffers an upper limit.
    assert 0.6 * fitted["predicted_on_devices"] < fitted["measured_on_devices"]
    assert fitted["measured_on_devices"] <= fitted["predicted_on_devices"] + 2**16
    header = read_gguf(out)
    last = sum(t.n_bytes for t in header.tensors if not t.name.startswith("token_embd"))
    assert fitted["measured_on_devices"] > last


def test_sensitivities_are_measured_on_workers(
    two: tuple[Worker, Worker], environment: dict[str, str], demo_gguf: Path, tmp_path: Path
) -> None:
    """Weights that are on a worker are rounded there, and restored."""
    found = run(
        environment, "quantize", demo_gguf, "--fit-vram", "9MB", "--ctx", "256", "--imatrix", "none", "--minutes", "2",
        "--compare", "0", "-t", "1", "--types", "q4_0,q8_0", "--rpc", two[0].address, "-o", tmp_path / "x.gguf",
    )  # fmt: skip
    assert found["sensitivity"]["measured"]
    assert found["fitted"]["predicted_kl"] > 0
    measured = found["fitted"]["divergence"]["mean_kl"]
    assert found["fitted"]["predicted_kl"] / 4 < measured < 4 * found["fitted"]["predicted_kl"]


def test_tuning_on_a_worker_is_kept_apart_from_that_of_the_processor(
    two: tuple[Worker, Worker], environment: dict[str, str], demo_gguf: Path
) -> None:
    common = ("bench", "--tune", demo_gguf, "-t", "1", "-c", "512")
    folder = Path(environment["TURBOPILOT_CACHE"]) / "tuning"
    (here,) = run(environment, *common, "--ngl", "0")["files"]
    first = set(folder.iterdir())
    assert len(first) == 1
    (there,) = run(environment, *common, "--rpc", two[0].address)["files"]
    second = set(folder.iterdir())
    assert len(second) == 2
    assert first < second
    run(environment, *common, "--rpc", two[0].address, "--ngl", "2")
    assert len(set(folder.iterdir())) == 3, "fewer layers on the device are another result"
    for found in (here, there):
        assert found["chosen"] in ("flash", "plain")
    assert there["flash"] != here["flash"]
    assert served(environment, demo_gguf, two[0].address) == (there["chosen"], there["flash"])
    assert served(environment, demo_gguf) == (here["chosen"], here["flash"])
    assert served(environment, demo_gguf, two[1].address) == (None, None), "another device"


def served(environment: dict[str, str], path: Path, *workers: str) -> tuple[Any, Any]:
    """Return the result of tuning that a server would use; it measures nothing on devices."""
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
        "from serve.device_options import DeviceOptions; from serve.llama import load\n"
        "from serve.settings import ModelOptions\n"
        "devices = DeviceOptions(workers=tuple(sys.argv[2:]))\n"
        "decoder, report = load(Path(sys.argv[1]), ModelOptions(ctx=512, threads=1, devices=devices))\n"
        "tuning = report.tuning\n"
        "print(json.dumps([tuning and tuning.name, tuning and asdict(tuning.flash), decoder.can_tune]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), *workers],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    name, flash, can_tune = json.loads(done.stdout.splitlines()[-1])
    assert not can_tune
    return name, flash


def test_name_is_served_in_the_type_that_fits_on_workers(two: tuple[Worker, Worker]) -> None:
    """Count the free memory of workers, beside main memory."""
    code = (
        "import sys; from turbopilot.llama.model_memory import usable_memory\n"
        "from turbopilot.llama.placement_wish import PlacementWish\n"
        "wish = PlacementWish(workers=tuple(sys.argv[1:])); print(usable_memory(wish)); "
        "print(usable_memory(wish).total - usable_memory().total)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *(w.address for w in two)],
        capture_output=True, text=True, env=ENVIRONMENT, check=True,
    )  # fmt: skip
    text, more = done.stdout.splitlines()
    assert "of main memory (three quarters of this machine's) and 2 remote devices with" in text
    assert int(more) > 10**8
