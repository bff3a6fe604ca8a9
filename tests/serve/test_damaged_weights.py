"""Model files whose header is valid, but whose weights compute NaN."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from tests.support.gguf_faults import faulty, rows, tensor
from tests.support.serving import ROOT, ask, serve_command, wait_until_ready
from turbopilot.formats.gguf.file import GgufHeader, read_gguf


def _nan_norm(path: Path, header: GgufHeader) -> None:
    rows(path, tensor(header, "output_norm.weight")).view(np.float32)[0, 0] = np.nan


def test_model_that_computes_nan_is_refused_at_start(demo_gguf: Path, tmp_path: Path) -> None:
    model = faulty(demo_gguf, tmp_path / "nan.gguf", _nan_norm)
    done = subprocess.run(
        serve_command("--port", "0", str(model)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 2
    assert f"error: {model}: the model computes NaN or infinite logits" in done.stderr
    assert "turbopilot verify" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no longer possible" not in done.stderr


def test_token_that_computes_nan_fails_only_its_requests(demo_gguf: Path, tmp_path: Path) -> None:
    tokens = read_gguf(demo_gguf).metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    damaged = list(map(str, tokens)).index("@")

    def spoil(path: Path, header: GgufHeader) -> None:
        rows(path, tensor(header, "token_embd.weight")).view(np.float16)[damaged] = np.nan

    model = faulty(demo_gguf, tmp_path / "nan.gguf", spoil)
    arguments = serve_command("--port", "0", "--no-ahead", str(model))
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            _, port = wait_until_ready(process)
            answers = {}
            for prompt in ("import os", "@", "import re"):
                body = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
                answers[prompt] = ask(port, "POST", "/v1/completions", body)
        finally:
            process.terminate()
            _, err = process.communicate(timeout=100)
    assert [status for status, _, _ in answers.values()] == [200, 503, 200]
    assert b'"unusable_logits"' in answers["@"][2]
    assert answers["@"][1].get("X-Should-Retry") == "false"
    assert "Traceback" not in err
