"""Models on the devices of two workers on loopback. Run by scripts/test_devices."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.devices.lab import ENVIRONMENT, ROOT, Worker, loader, worker
from turbopilot.base.errors import DeviceLost
from turbopilot.llama.rpc import has_rpc
from turbopilot.llama.rpc_protocol import connect_worker

pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
]
N_UNITS = 5  # the bundled model's layers and its output head
SPLITS = [(n, (first, n - first)) for n in range(1, N_UNITS + 1) for first in range(n + 1)]


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Worker, Worker]]:
    with worker() as first, worker() as second:
        yield first, second


def probabilities(logits: list[float]) -> Any:
    powers = np.exp(np.asarray(logits) - max(logits))
    return powers / powers.sum()


def test_logits_equal_local_ones_at_every_split(
    two: tuple[Worker, Worker], demo_gguf: Path
) -> None:
    """Check the predicted sizes too."""
    addresses = [w.address for w in two]
    with loader() as child:
        local = child.load(demo_gguf, n_gpu_layers=0)
        expected = probabilities(local["logits"])
        for n, counts in SPLITS:
            found = child.load(
                demo_gguf, n_gpu_layers=n, workers=addresses, tensor_split=list(map(float, counts))
            )
            assert tuple(found["counts"]) == counts
            p = probabilities(found["logits"])
            # The limit of F16 in turbopilot.verify.criteria is larger.
            assert float((expected * np.log(expected / p)).sum()) < 1e-5, counts
            assert found["greedy"] == local["greedy"], counts
            here, *used = found["uses"]
            shares = [s for s in found["shares"][1:] if s["total"]]
            assert len(used) == len(shares)
            for use, share in zip(used, shares, strict=True):
                assert use["layers"] == share["layers"], counts
                assert use["weights"] == pytest.approx(share["weights"], rel=0.01, abs=2**15)
                assert use["kv"] == pytest.approx(share["kv"], abs=2**14)
                assert use["compute"] <= share["compute"] + 2**14
            assert here["layers"] == N_UNITS - 1 - sum(use["layers"] for use in used)


def test_memory_really_moves_to_the_workers_and_back(
    two: tuple[Worker, Worker], demo_gguf: Path
) -> None:
    before = [w.memory() for w in two]
    with loader() as child:
        found = child.load(
            demo_gguf, keeps=True, workers=[w.address for w in two], tensor_split=[1.0, 1.0], model={"n_seq": 64}
        )  # fmt: skip
        for w, base, use in zip(two, before, found["uses"][1:], strict=True):
            assert w.memory() - base > 0.9 * (use["weights"] + use["kv"])
        child.load(demo_gguf, n_gpu_layers=0)
        for w, base, use in zip(two, before, found["uses"][1:], strict=True):
            assert w.memory() - base < 0.3 * (use["weights"] + use["kv"])


def test_model_larger_than_the_memory_it_may_use_keeps_layers_on_the_cpu(
    two: tuple[Worker, Worker], demo_gguf: Path
) -> None:
    limit = 11 * 10**6
    with loader() as child:
        found = child.load(
            demo_gguf, workers=[w.address for w in two], margin=0, memory=[limit, limit], model={"ctx": 256}
        )  # fmt: skip
        here, *used = found["uses"]
        assert sum(use["layers"] for use in used) > 0
        for use in used:
            assert use["weights"] + use["kv"] + use["compute"] <= limit
        few = child.load(
            demo_gguf, workers=[w.address for w in two], margin=0, memory=[limit // 3, limit // 3], model={"ctx": 256}
        )  # fmt: skip
        assert few["uses"][0]["layers"] > here["layers"]


def test_short_memory_steps_down_and_is_remembered(demo_gguf: Path) -> None:
    with worker() as w, loader() as child:
        limit = w.memory("VmData") + 60 * 2**20
        resource.prlimit(w.process.pid, resource.RLIMIT_DATA, (limit, limit))
        options: dict[str, Any] = {"workers": [w.address], "model": {"n_seq": 32}}
        found = child.load(demo_gguf, **options)
        assert found["tried"][0] == N_UNITS
        assert 0 < found["tried"][-1] < N_UNITS
        assert found["tried"] == sorted(found["tried"], reverse=True)
        logged = [m for m in found["messages"] if "layers on devices instead of" in m]
        assert len(logged) == len(found["tried"]) - 1
        again = child.load(demo_gguf, **options)
        assert again["tried"] == found["tried"][-1:]
        assert again["greedy"] == found["greedy"]
        given = child.load(demo_gguf, n_gpu_layers=N_UNITS, **options)
        assert given["error"] == "MemoryShort"


def test_tensors_can_be_put_on_the_cpu(two: tuple[Worker, Worker], demo_gguf: Path) -> None:
    addresses = [two[0].address]
    with loader() as child:
        all_there = child.load(demo_gguf, workers=addresses)
        found = child.load(
            demo_gguf, workers=addresses, tensor_overrides=[["ffn_(up|down)", "CPU"]]
        )
        assert found["uses"][1]["layers"] == all_there["uses"][1]["layers"] == N_UNITS - 1
        assert found["uses"][1]["weights"] < 0.7 * all_there["uses"][1]["weights"]
        predicted = found["shares"][1]["weights"]
        assert found["uses"][1]["weights"] == pytest.approx(predicted, rel=0.01, abs=2**15)
        assert found["greedy"] == all_there["greedy"]


def test_worker_in_use_and_absent_worker_are_one_clear_error(
    two: tuple[Worker, Worker], demo_gguf: Path
) -> None:
    connect_worker(two[0].address).close()
    with loader() as child:
        child.load(demo_gguf, keeps=True, workers=[two[0].address])
        with pytest.raises(DeviceLost, match=f"{two[0].address} does not answer"):
            connect_worker(two[0].address, timeout=0.3)
    with socket.create_server(("127.0.0.1", 0)) as free:
        absent = f"127.0.0.1:{free.getsockname()[1]}"
    with loader() as child:
        found = child.load(demo_gguf, workers=[absent])
    assert found["error"] == "DeviceLost"
    assert found["message"].startswith(f"the worker {absent} cannot be reached")


def test_worker_in_use_stays_known_while_models_are_loaded_again(
    two: tuple[Worker, Worker], demo_gguf: Path
) -> None:
    addresses = [w.address for w in two]
    with loader() as child:
        for _ in range(4):
            found = child.load(demo_gguf, keeps=True, workers=addresses, tensor_split=[1.0, 1.0])
            assert [use["device"] for use in found["uses"]] == ["CPU", "RPC0", "RPC1"]


def test_rows_cannot_be_split_over_workers(two: tuple[Worker, Worker], demo_gguf: Path) -> None:
    with loader() as child:
        found = child.load(demo_gguf, workers=[w.address for w in two], split_mode="row")
    assert found["error"] == "InvalidInput"
    assert found["message"].startswith("--split-mode row: ")


def test_server_does_not_start_without_its_worker(demo_gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        absent = f"127.0.0.1:{free.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "serve", str(demo_gguf), "--port", "0", "--rpc", absent],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 8
    assert done.stderr.count("error: ") == 1
    assert f"the worker {absent} cannot be reached" in done.stderr


def test_verify_passes_with_layers_on_workers(two: tuple[Worker, Worker], demo_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "verify", str(demo_gguf), "--against", "demo", "--positions", "600",
         "--ngl", "3", "--rpc", two[0].address, "--rpc", two[1].address],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout


def test_bench_reports_the_workers(two: tuple[Worker, Worker], demo_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "bench", str(demo_gguf), "-p", "32", "-n", "4", "-r", "1", "--json",
         "--rpc", two[0].address],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert two[0].address in done.stdout


def test_bench_rpc_writes_a_row_for_each_case(demo_gguf: Path) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/bench_rpc.py", str(demo_gguf), "--rounds", "1", "--workers", "1,2", "--delays", "0,1",
         "--prompt", "16", "--generate", "4"],
        cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *rows = done.stdout.splitlines()
    assert "through the relay" in first
    cells = [[cell.strip() for cell in row.strip("| ").split("|")][:2] for row in rows[3:]]
    assert cells == [
        ["local", ""], ["1 worker", "0 ms"], ["2 workers", "0 ms"], ["1 worker", "1 ms"], ["2 workers", "1 ms"]
    ]  # fmt: skip
