"""Tests of check_gpu: a dry run with a tiny model, its report, and its time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench import gpu_steps  # noqa: E402
from bench.gpu_check import FULL, TINY, GpuCheck, GpuResults, Models, Peer, SpeedRow, has_option  # noqa: E402
from bench.gpu_report import markdown  # noqa: E402
from bench.servers import LLAMA_SERVER, OURS, Server  # noqa: E402

PEERS = (Peer(Server(OURS, "python", "1")), Peer(Server(LLAMA_SERVER, "llama-server", "2")))


def check_in(folder: Path, *, seconds: float = 60, rpc: str = "") -> GpuCheck:
    return GpuCheck(folder, TINY, time.monotonic() + seconds, rpc, 2, PEERS)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "scripts/check_gpu.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


def test_dry_run_measures_every_cell_and_leaves_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    report = tmp_path / "report.md"
    done = run("--tiny", "--folder", str(folder), "--report", str(report))
    assert done.returncode == 0, done.stderr
    text = report.read_text("utf-8")
    assert not list(folder.iterdir())
    rows = [line for line in text.splitlines() if line.startswith(("| F16 |", "| Q4_0 |"))]
    assert len(rows) == len(TINY.types) * 3 * len(TINY.streams)
    assert all(float(row.split("|")[4].replace(",", "")) > 0 for row in rows)
    for type_name in TINY.types:
        assert f"| completions, {type_name} | passed |" in text
    if "**A dry run: no GPU was used.**" in text:
        assert "| freed | skipped |" in text


def test_steps_without_time_are_skipped() -> None:
    done = run("--tiny", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    for step in ("offload", "verify", "completions", "fit", "speed"):
        assert f"| {step} | skipped | no time left |" in done.stdout


def test_servers_have_equal_settings() -> None:
    ours, theirs = (" ".join(p.settings(10, 8, 256, "host:1")) for p in PEERS)
    assert "--parallel 8 --ctx 256 --ngl 10" in ours, "our context is for each slot"
    assert "-np 8 -c 2048 -ngl 10 --no-kv-unified" in theirs, "theirs is for all slots"
    assert "--rpc host:1" in ours
    assert "--rpc host:1" in theirs


def test_report_shows_failures_and_ratios(tmp_path: Path) -> None:
    results = GpuResults(has_gpu=True)
    results.doctor = {"checks": [{"name": "gpu", "found": "NVIDIA L4"}]}
    results.add("fit", False, "line 1\nline | 2")
    results.speeds = [
        SpeedRow("F16", "all", 8, {OURS: 300.0, LLAMA_SERVER: 200.0}),
        SpeedRow("F16", "0", 1, {OURS: 10.0}),
    ]
    text = markdown(results, check_in(tmp_path), seconds=12, command=["--rpc", "a:1"])
    assert "`scripts/check_gpu --rpc a:1`" in text
    assert "**Some steps failed.**" in text
    assert "no GPU was used" not in text
    assert "- gpu: NVIDIA L4" in text
    assert "| fit | **failed** | line 1 line \\| 2 |" in text
    assert "| F16 | all | 8 | 300.0 | 200.0 | 1.50 |" in text
    assert "| F16 | 0 | 1 | 10.0 | failed |  |" in text
    assert not results.passed


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Models:
    """Return the models of a machine with a GPU of 1 GB."""
    monkeypatch.setattr(gpu_steps, "free_memory", lambda _: {"GPU0": 1_000_000_000})
    models = Models(check_in(tmp_path), "demo")
    path = tmp_path / "demo.gguf"
    path.write_bytes(bytes(4 << 20))
    vars(models).update(f16=path, n_layers=4)
    return models


def says(monkeypatch: pytest.MonkeyPatch, line: str, n_tokens: int = 8) -> list[list[str]]:
    """Let a served model report `line`; return the options of each start."""
    seen: list[list[str]] = []

    def served(_check: Any, _model: Path, options: list[str]) -> tuple[str, int]:
        seen.append(options)
        return line, n_tokens

    monkeypatch.setattr(gpu_steps, "_served", served)
    return seen


def test_layers_that_are_not_offloaded_fail(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path
) -> None:
    says(monkeypatch, "GPU      5 of 5 layers offloaded (GPU0)")
    results = GpuResults()
    gpu_steps.offload(check_in(tmp_path), gpu, results)
    assert {s.name: s.passed for s in results.steps} == {
        "offload, all layers": True, "offload, half layers": False, "offload, 0 layers": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("n", "n_tokens", "passed"), [(3, 8, True), (0, 8, False), (5, 8, False), (3, 0, False)]
)
def test_fit_needs_some_layers_and_a_completion(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path, n: int, n_tokens: int, passed: bool
) -> None:  # fmt: skip
    monkeypatch.setattr(gpu_steps, "has_option", lambda *_: True)
    seen = says(monkeypatch, f"GPU      {n} of 5 layers offloaded (GPU0)", n_tokens)
    results = GpuResults(has_gpu=True)
    check = replace(check_in(tmp_path), sizes=FULL)
    gpu_steps.fit(check, gpu, results)
    assert [s.passed for s in results.steps] == [passed]
    assert seen == [["--ngl", "auto", "--gpu-memory", "2MiB"]]


@pytest.mark.parametrize(
    ("option", "known"), [("--ngl", True), ("--parallel", True), ("--par", False)]
)
def test_options_of_this_version_are_found(option: str, known: bool) -> None:
    assert has_option("serve", option) == known


def test_verify_fails_with_a_file_that_fails(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path
) -> None:
    def run_verify(*words: str, may_fail: bool) -> str:
        on_gpu = words[words.index("--ngl") + 1] != "0"
        found = [(name, not (on_gpu and name == "Q4_0")) for name in TINY.types]
        reports = [
            {"type_name": name, "passed": passed, "metrics": {"mean_kl": 1e-6}}
            for name, passed in found
        ]
        return json.dumps({"reports": reports})

    for name in TINY.types:
        (tmp_path / f"demo-{name}.gguf").touch()
    monkeypatch.setattr(gpu_steps, "has_option", lambda *_: True)
    monkeypatch.setattr(gpu_steps, "run_turbopilot", run_verify)
    results = GpuResults(has_gpu=True)
    gpu_steps.verify(check_in(tmp_path), gpu, results)
    assert {s.name: s.passed for s in results.steps} == {
        "verify, all layers": False, "verify, half layers": False, "verify, 0 layers": True,
    }  # fmt: skip


@pytest.mark.parametrize(("after", "passed"), [(1_000_000_000, True), (900_000_000, False)])
def test_memory_that_is_not_freed_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int, passed: bool
) -> None:
    seen = iter([1_000_000_000, after])
    monkeypatch.setattr(gpu_steps, "free_memory", lambda _: {"GPU0": next(seen)})
    monkeypatch.setattr(gpu_steps, "run_turbopilot", lambda *_, **__: "{}")
    results = gpu_steps.all_steps(check_in(tmp_path, seconds=0))
    assert {s.name: s.passed for s in results.steps}["freed"] is passed
