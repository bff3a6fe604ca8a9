"""The `serve` command with two models, and with a model that llama.cpp cannot load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve.llama.facts import plan
from serve.settings import ModelOptions
from tests.support.serving import ROOT, ask, run_serve, serve_command, wait_until_ready
from turbopilot.formats.gguf.file import read_gguf


@contextmanager
def serving(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        serve_command("--port", "0", *arguments),
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environ,
    ) as process:
        try:
            yield process, wait_until_ready(process)[1]
        finally:
            process.kill()


def get(port: int, path: str) -> Any:
    return json.loads(ask(port, "GET", path)[2])


def states(port: int) -> dict[str, str]:
    return {m["name"]: m["status"] for m in get(port, "/health")["models"]}


def complete(port: int, model: str) -> tuple[str, str]:
    body = {
        "model": model, "prompt": "def add(a, b):\n    return", "max_tokens": 4, "temperature": 0,
    }  # fmt: skip
    status, _, data = ask(port, "POST", "/v1/completions", body)
    assert status == 200, data
    answer = json.loads(data)
    return answer["model"], answer["choices"][0]["text"]


def test_models_swap_when_memory_fits_one(demo_gguf: Path, demo_q4_0: Path, tmp_path: Path) -> None:
    options = ModelOptions(ctx=256, n_seq=1)
    large, small = (plan(read_gguf(p), options).cpu.total for p in (demo_gguf, demo_q4_0))
    (tmp_path / "here.toml").write_text(
        f'model-memory = "{large + small - 1}B"\nprefix-cache = 0\nctx = 256\nparallel = 1\nthreads = 1\n'
        f'[models]\nlarge = "{demo_gguf}"\nsmall = "{demo_q4_0}"\n'
    )
    with serving("--config", "here.toml", cwd=tmp_path) as (process, port):
        assert states(port) == {"large": "ok", "small": "unloaded"}
        listed = get(port, "/v1/models")["data"]
        assert [(m["id"], m["max_model_len"]) for m in listed] == [("large", 256), ("small", 256)]
        assert all(m["capabilities"]["completion_fim"] for m in listed)
        files = get(port, "/api/tags")["models"]
        assert [m["size"] for m in files] == [p.stat().st_size for p in (demo_gguf, demo_q4_0)]
        assert files[0]["digest"] != files[1]["digest"]
        assert files[1]["details"]["quantization_level"] == "Q4_0"
        first = complete(port, "large")
        assert complete(port, "small")[0] == "small"
        assert states(port) == {"large": "unloaded", "small": "ok"}
        assert get(port, "/health")["status"] == "ok"
        assert complete(port, "large") == first
        assert states(port) == {"large": "ok", "small": "unloaded"}
        text = ask(port, "GET", "/metrics")[2].decode()
        assert 'turbopilot_model_loads_total{model="large"} 2' in text
        assert 'turbopilot_model_loads_total{model="small"} 1' in text
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert "unloading large to make room for small" in err
        assert err.rstrip().endswith("stopped")
        assert "Traceback" not in err


def test_two_loaded_models_answer_concurrent_requests(demo_gguf: Path, tmp_path: Path) -> None:
    arguments = ("--model", f"other={demo_gguf}", "--ctx", "256", "-t", "1", str(demo_gguf))
    with serving(*arguments, cwd=tmp_path) as (process, port):
        alone = complete(port, "whatever")[1]
        with ThreadPoolExecutor(4) as threads:
            answers = list(
                threads.map(lambda name: complete(port, name), ["demo_model", "other"] * 4)
            )
        assert answers == [("demo_model", alone), ("other", alone)] * 4
        assert states(port) == {"demo_model": "ok", "other": "ok"}
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert "Traceback" not in err


def test_default_model_that_llama_cpp_cannot_load_ends_the_command(
    demo_gguf: Path, tmp_path: Path
) -> None:
    data = demo_gguf.read_bytes().replace(b"output_norm.weight", b"output_nurm.weight")
    (tmp_path / "bad.gguf").write_bytes(data)
    done = run_serve("bad.gguf", "-p", "0", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "bad.gguf: llama.cpp cannot load it" in done.stderr
    assert "hint: " in done.stderr
    assert "ready" not in done.stderr
    assert "Traceback" not in done.stderr


def test_corrupt_second_model_is_reported_when_requested(demo_gguf: Path, tmp_path: Path) -> None:
    data = demo_gguf.read_bytes().replace(b"output_norm.weight", b"output_nurm.weight")
    (tmp_path / "bad.gguf").write_bytes(data)
    arguments = ("--model", "bad=bad.gguf", "--ctx", "256", "-t", "1", str(demo_gguf))
    with serving(*arguments, cwd=tmp_path) as (_, port):
        for _ in range(2):
            body = {"model": "bad", "prompt": "x"}
            status, _, answer = ask(port, "POST", "/v1/completions", body)
            assert status == 500
            assert b"bad.gguf: llama.cpp cannot load it" in answer
        assert states(port) == {"demo_model": "ok", "bad": "failed"}
        assert complete(port, "")[1]
        assert ask(port, "GET", "/health")[0] == 200


def test_invalid_gguf_header_is_reported_before_loading(demo_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(demo_gguf.read_bytes()[:1000])
    done = run_serve(str(demo_gguf), "-p", "0", "--model", "cut=cut.gguf", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "cut.gguf" in done.stderr
    assert "loading" not in done.stderr
