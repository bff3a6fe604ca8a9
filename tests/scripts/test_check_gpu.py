"""Tests of check_gpu: a dry run with a tiny model, its report, and its time limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench import gpu_speed, gpu_steps  # noqa: E402
from bench.gpu_check import (  # noqa: E402
    FULL,
    TINY,
    GpuCheck,
    GpuResults,
    Pace,
    Peer,
    SpeedRow,
    Work,
)  # fmt: skip
from bench.gpu_completions import NEAR_TIE, TokenChoices, lead_lost  # noqa: E402
from bench.gpu_models import Models  # noqa: E402
from bench.gpu_report import markdown  # noqa: E402
from bench.servers import LLAMA_SERVER, OURS, Running, Server  # noqa: E402
from bench.time_limit import Stopped, stopped_after  # noqa: E402

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
    assert all(float(row.split("|")[5].replace(",", "")) > 0 for row in rows)
    assert "was stopped" not in text
    for type_name in TINY.types:
        assert f"| completions, {type_name} | passed |" in text
    if "**A dry run: no GPU was used.**" in text:
        assert "| freed | skipped |" in text


def test_steps_without_time_are_skipped() -> None:
    done = run("--tiny", "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert "**It was stopped before its end.**" in done.stdout
    assert "| offload | skipped | stopped: the time is up |" in done.stdout
    for step in ("verify", "completions", "fit", "speed"):
        assert f"| {step} | skipped | no time left |" in done.stdout


def test_signal_ends_the_check_with_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    command = [sys.executable, "scripts/check_gpu.py", "--tiny", "--report", str(report)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("offload"):
                process.terminate()
                break
        process.stderr.read()
    text = report.read_text("utf-8")
    assert "| offload, 0 layers | passed |" in text
    assert "skipped | stopped: SIGTERM |" in text
    assert "| speed | skipped | no time left |" in text


def test_time_limit_stops_a_wait_once() -> None:
    with pytest.raises(Stopped, match="the time is up"), stopped_after(0.01):
        signal.pause()
    handler = signal.getsignal(signal.SIGTERM)

    def ended_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # ignored: what was started is being ended

    with pytest.raises(Stopped, match="SIGTERM"), stopped_after(1000):
        ended_twice()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_work_shrinks_with_the_pace() -> None:
    most, pace = Work(8, 128, 64), Pace(100.0, 10.0)
    assert most.seconds(pace) == pytest.approx(8 * (1.28 + 6.4))
    assert most.fitting(pace, 1000) == most
    assert most.fitting(pace, 20) == Work(2, 128, 64)
    assert most.fitting(pace, 2) == Work(1, 32, 16)
    assert most.fitting(pace, 0.5) is None
    assert most.fitting(pace, 20, streams=8) == Work(1, 32, 16)


def choices(*tokens: str, lead: float = 1.0) -> TokenChoices:
    """Return a completion in which each token leads over the token "x"."""
    return TokenChoices(tokens, tuple({token: -0.1, "x": -0.1 - lead} for token in tokens))


def test_completions_may_differ_at_near_ties_alone() -> None:
    assert lead_lost(choices("a", "b"), choices("a", "b")) == 0
    assert lead_lost(choices("a", "b", lead=0.2), choices("a", "x")) == pytest.approx(0.2)
    assert lead_lost(choices("a", "b"), choices("x", "b")) > NEAR_TIE
    assert lead_lost(choices("a", "b"), choices("a", "never near")) > NEAR_TIE
    assert lead_lost(choices("a", "b"), choices("a")) > NEAR_TIE


def test_speed_decides_the_work_of_all_servers_by_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models, asked = Models(check_in(tmp_path), "demo"), []
    check = replace(check_in(tmp_path), sizes=FULL)
    ends = {OURS: 100.0, LLAMA_SERVER: 200.0}
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)

    def measure(self: Any, work: Work, streams: int) -> tuple[float, Pace]:
        asked.append((self.name, work, streams))
        return 50.0, Pace(100.0, 100.0)

    monkeypatch.setattr(gpu_speed.ServedSpeed, "_measure", measure)
    rows = [SpeedRow("F16", "all", n) for n in (1, 8, 32)]
    for name, end in ends.items():
        gpu_speed.ServedSpeed(check, models, 0, name).rows(rows, end)
    works = [row.work for row in rows]
    assert works == [Work(8, 128, 64), Work(2, 128, 64), Work(1, 128, 64)]
    for name in ends:
        measured = [(work, n) for server, work, n in asked if server == name][1:]
        assert measured == list(zip(works, (1, 8, 32), strict=True))
    assert all(row.speeds == {OURS: 50.0, LLAMA_SERVER: 50.0} for row in rows)


def test_server_that_starts_slowly_is_measured_nevertheless(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    check = replace(check_in(tmp_path), sizes=FULL)
    models = Models(check, "demo")
    vars(models).update(n_layers=4)
    (tmp_path / "demo-Q4_0.gguf").touch()
    vars(models)["f16"] = tmp_path / "demo-F16.gguf"

    @contextlib.contextmanager
    def started(*_: Any, **__: Any) -> Iterator[Running]:
        now[0] += 1000
        yield Running(1, 1)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gpu_speed, "started", started)
    pace = Pace(1000.0, 1000.0)
    monkeypatch.setattr(gpu_speed.ServedSpeed, "_measure", lambda *_: (50.0, pace))
    rows = [SpeedRow("Q4_0", "all", n) for n in (1, 8)]
    gpu_speed.measure_cell(check, models, rows, 10, GpuResults())
    assert all(row.speeds == {OURS: 50.0, LLAMA_SERVER: 50.0} for row in rows)


def test_speed_leaves_out_rows_that_would_take_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check = replace(check_in(tmp_path), sizes=FULL)
    pace = Pace(1.0, 1.0)
    monkeypatch.setattr(gpu_speed.ServedSpeed, "_measure", lambda *_: (1.0, pace))
    rows = [SpeedRow("F16", "all", n) for n in (1, 32)]
    end = time.monotonic() + 100
    gpu_speed.ServedSpeed(check, Models(check, "demo"), 0, OURS).rows(rows, end)
    assert rows[0].speeds == {OURS: 1.0}
    assert rows[1].speeds == {}
    results = GpuResults(speeds=rows)
    gpu_speed.judge_speed(replace(check, peers=PEERS[:1]), results)
    assert "1 of 2 (type/layers/streams): F16/all/32" in results.steps[0].detail


def test_servers_have_equal_settings() -> None:
    ours, theirs = (" ".join(p.settings(10, 8, 256, "host:1")) for p in PEERS)
    assert "--parallel 8 --ctx 256 --ngl 10" in ours, "our context is for each slot"
    assert "-np 8 -c 2048 -ngl 10 --no-kv-unified" in theirs, "theirs is for all slots"
    assert "--rpc host:1" in ours
    assert "--rpc host:1" in theirs


def test_report_shows_failures_and_ratios(tmp_path: Path) -> None:
    results = GpuResults(devices={"CUDA0 (NVIDIA L4)": 24 * 10**9}, is_complete=True)
    results.doctor = {"checks": [{"name": "gpu", "found": "NVIDIA L4"}]}
    results.add("fit", False, "line 1\nline | 2")
    results.speeds = [
        SpeedRow("F16", "all", 8, {OURS: 300.0, LLAMA_SERVER: 200.0}, Work(2, 24, 8)),
        SpeedRow("F16", "0", 1, {OURS: 10.0}, Work(1, 24, 8)),
        SpeedRow("F16", "0", 2),
    ]
    text = markdown(results, check_in(tmp_path), seconds=12, command=["--rpc", "a:1"])
    assert "`scripts/check_gpu --rpc a:1`" in text
    assert "**Some steps failed.**" in text
    assert "no GPU was used" not in text
    assert "was stopped" not in text
    assert "- device: CUDA0 (NVIDIA L4), 24.0 GB free" in text
    assert "- gpu: NVIDIA L4" in text
    assert "| fit | **failed** | line 1 line \\| 2 |" in text
    assert "| F16 | all | 8 | 2 × (24 + 8) | 300.0 | 200.0 | 1.50 |" in text
    assert "| F16 | 0 | 1 | 1 × (24 + 8) | 10.0 | – |  |" in text
    assert "| F16 | 0 | 2 | – | – | – |  |" in text
    assert not results.passed


MODEL_MIB = 4


@pytest.fixture
def gpu(tmp_path: Path) -> Models:
    """Return the models of a machine with a GPU."""
    models = Models(check_in(tmp_path), "demo")
    path = tmp_path / "demo.gguf"
    path.write_bytes(bytes(MODEL_MIB << 20))
    vars(models).update(f16=path, n_layers=4)
    return models


def part(device: str, layers: int, *, has_output: bool = False, mib: int = 1) -> dict[str, Any]:
    sizes = {"weights": mib << 20, "kv": 0, "compute": 0}
    return {"device": device, "layers": layers, "has_output": has_output, **sizes}


def serves(monkeypatch: pytest.MonkeyPatch, *parts: dict[str, Any]) -> list[list[str]]:
    """Let a served model report these parts; return the options of each start."""
    seen: list[list[str]] = []

    def served(_check: Any, _models: Any, options: list[str]) -> Any:
        seen.append(options)
        return list(parts), Pace(100.0, 10.0)

    monkeypatch.setattr(gpu_steps, "_served", served)
    return seen


def test_layers_that_are_not_offloaded_fail(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path
) -> None:
    serves(monkeypatch, part("CPU", 0), part("GPU0", 4, has_output=True))
    results = GpuResults(devices={"GPU0": 10**9})
    gpu_steps.offload(check_in(tmp_path), gpu, results)
    assert {s.name: s.passed for s in results.steps} == {
        "offload, all layers": True, "offload, half layers": False, "offload, 0 layers": False,
    }  # fmt: skip
    assert set(results.paces) == {"all", "half", "0"}


@pytest.mark.parametrize(
    ("here", "there", "mib", "passed"), [(1, 3, 1, True), (4, 0, 1, False), (0, 4, 1, False), (1, 3, 3, False)]
)  # fmt: skip
def test_fit_needs_some_layers_within_the_memory(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path, here: int, there: int, mib: int, passed: bool
) -> None:  # fmt: skip
    seen = serves(monkeypatch, part("CPU", here), part("GPU0", there, mib=mib))
    results = GpuResults(devices={"GPU0": 10**9})
    check = replace(check_in(tmp_path), sizes=FULL)
    gpu_steps.fit(check, gpu, results)
    assert [s.passed for s in results.steps] == [passed]
    assert seen == [["--ngl", "auto", "--gpu-memory", "2MiB"]]


def test_verify_fails_with_a_file_that_fails_and_compares_less_on_a_slow_device(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path
) -> None:
    positions = []

    def run_verify(*words: str, may_fail: bool, seconds: float) -> str:
        assert seconds > 0
        positions.append(int(words[words.index("--positions") + 1]))
        on_gpu = words[words.index("--ngl") + 1] != "0"
        found = [(name, not (on_gpu and name == "Q4_0")) for name in TINY.types]
        reports = [
            {"type_name": name, "passed": passed, "metrics": {"mean_kl": 1e-6}}
            for name, passed in found
        ]
        return json.dumps({"reports": reports})

    for name in TINY.types:
        (tmp_path / f"demo-{name}.gguf").touch()
    monkeypatch.setattr(gpu_steps, "run_turbopilot", run_verify)
    results = GpuResults(paces={"all": Pace(10.0, 1.0)})
    check = replace(check_in(tmp_path), sizes=replace(TINY, positions=1000))
    gpu_steps.verify(check, gpu, results)
    assert positions == [100, 1000, 1000]
    assert {s.name: s.passed for s in results.steps} == {
        "verify, all layers": False, "verify, half layers": False, "verify, 0 layers": True,
    }  # fmt: skip


def test_verify_that_takes_too_long_is_skipped(
    monkeypatch: pytest.MonkeyPatch, gpu: Models, tmp_path: Path
) -> None:
    def run_late(*_: str, may_fail: bool, seconds: float) -> str:
        raise subprocess.TimeoutExpired("verify", seconds)

    for name in TINY.types:
        (tmp_path / f"demo-{name}.gguf").touch()
    monkeypatch.setattr(gpu_steps, "run_turbopilot", run_late)
    results = GpuResults()
    gpu_steps.verify(check_in(tmp_path), gpu, results)
    assert [s.passed for s in results.steps] == [None] * 3
    assert "100 positions took more than" in results.steps[0].detail


@pytest.mark.parametrize(("after", "passed"), [(1_000_000_000, True), (900_000_000, False)])
def test_memory_that_is_not_freed_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int, passed: bool
) -> None:
    seen = iter([1_000_000_000, after])
    monkeypatch.setattr(gpu_steps, "free_memory", lambda _: {"GPU0": next(seen)})
    monkeypatch.setattr(gpu_steps, "run_turbopilot", lambda *_, **__: "{}")
    saved: list[GpuResults] = []
    results = gpu_steps.all_steps(check_in(tmp_path, seconds=0), saved.append)
    assert {s.name: s.passed for s in results.steps}["freed"] is passed
    assert saved == [results]
    assert not results.is_complete
