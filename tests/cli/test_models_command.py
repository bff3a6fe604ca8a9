"""The `turbopilot models` command on machines with GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turbopilot.app.resolve import resolve_gguf
from turbopilot.base.progress import Reporter
from turbopilot.cli import app
from turbopilot.llama import fitting, model_memory
from turbopilot.llama.devices import Device
from turbopilot.llama.placement_wish import PlacementWish

GB = 10**9
NAME = "deepseek-coder-6.7b"


@pytest.fixture(params=[(), (24.0,), (6.0, 6.0)])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of GPUs of a machine with 4 GiB of main memory."""

    def find(wish: PlacementWish) -> tuple[Device, ...]:
        if wish.n_gpu_layers == 0:
            return ()
        return tuple(Device(f"CUDA{i}", "RTX", int(n * GB)) for i, n in enumerate(request.param))

    monkeypatch.setattr("turbopilot.llama.footprint.total_bytes", lambda: 4 * 2**30)
    monkeypatch.setattr(model_memory, "supports_gpus", lambda: True)
    monkeypatch.setattr(fitting, "find_devices", find)
    return len(request.param)


def models(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_memory_that_decides_is_named_in_one_line(machine: int) -> None:
    here = "3.2 GB of main memory (three quarters of this machine's)"
    expected = {
        0: here,
        1: f"{here} and 1 GPU with 24.0 GB",
        2: f"{here} and 2 GPUs with 6.0 GB each",
    }
    assert f"fits in {expected[machine]};" in " ".join(models().split())
    (line,) = (x for x in models(NAME).splitlines() if x.startswith("fits "))
    assert line.endswith(f"judged by {expected[machine]}")


def test_json_lists_the_devices(machine: int) -> None:
    found = json.loads(models("--json"))
    assert found["memory"] == 3 * 2**30
    assert [d["name"] for d in found["devices"]] == [f"CUDA{i}" for i in range(machine)]


def test_serve_takes_the_type_that_models_shows(
    machine: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []

    def converted(_folder: Path, type_name: str, **_: object) -> Path:
        made.append(type_name)
        return tmp_path

    monkeypatch.setattr("turbopilot.app.resolve.converted", converted)
    monkeypatch.setattr(
        "turbopilot.app.resolve._fetch", lambda _name, wanted, *_, **__: (tmp_path, wanted)
    )
    (shown,) = json.loads(models(NAME, "--json"))["models"]
    assert shown["best_type"] == ("Q8_0" if machine else "")
    if machine:
        resolve_gguf(NAME, Reporter())
        assert made == ["Q8_0"]
    small = "deepseek-coder-1.3b"
    resolve_gguf(small, Reporter(), wish=PlacementWish(0))
    (best,) = json.loads(models(small, "--fits", str(3 * 2**30), "--json"))["models"]
    assert made[-1] == best["best_type"], "with --ngl 0, GPUs do not count"


@pytest.mark.usefixtures("machine")
def test_given_memory_is_main_memory_alone() -> None:
    found = json.loads(models("--fits", "8GiB", "--json"))
    assert found["memory"] == 8 * 2**30
    assert found["devices"] == []
    assert "fits in 8.6 GB of main memory;" in " ".join(models("--fits", "8GiB").split())
