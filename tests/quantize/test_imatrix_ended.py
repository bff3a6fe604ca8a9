"""Interrupted and failed runs of gathering: kept files, resuming and error messages."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.imatrix import Entry, Imatrix
from quantize.imatrix.checkpoint import Gathered
from tests.support.gguf_faults import faulty, not_a_number, rows, tensor
from tests.support.imatrix_lab import TEXT, run
from turbopilot.base.errors import CorruptModel, InvalidInput, QuantizationError, TurboPilotError
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_child
from turbopilot.llama.log import LlamaLog


def test_resumed_run_writes_identical_bytes(demo_gguf: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "x.gguf"
    resume = tmp_path / "x.gguf.resume"
    run(demo_gguf, whole, chunks=5)
    assert not list(tmp_path.glob("*.resume"))

    def interrupt(done: int, _total: int, _what: str = "", /) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(demo_gguf, output, chunks=5, progress=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["whole.gguf", "x.gguf.resume"]
    seen: list[int] = []
    report = run(demo_gguf, output, chunks=5, progress=lambda d, n, what="": seen.append(d))
    assert 1 <= report.resumed_from == seen[0] < 5
    assert seen[-1] == 5
    assert output.read_bytes() == whole.read_bytes()
    assert not resume.exists()
    assert report.notices == ()


@pytest.mark.parametrize("other", ["text", "chunk size", "damaged", "further"])
def test_resume_file_of_another_run_is_not_used(
    demo_gguf: Path, tmp_path: Path, other: str
) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "x.gguf"
    run(demo_gguf, whole, chunks=2)

    def interrupt(done: int, _total: int, _what: str = "", /) -> None:
        if done == 4:
            raise KeyboardInterrupt

    options: dict[str, dict[str, Any]] = {
        "text": {"text": TEXT[1:]},
        "chunk size": {"chunk_size": 64},
    }
    with pytest.raises(KeyboardInterrupt):
        run(demo_gguf, output, chunks=5, progress=interrupt, **options.get(other, {}))
    resume = tmp_path / "x.gguf.resume"
    if other == "damaged":
        resume.write_bytes(resume.read_bytes()[:-200])
    if other == "further":
        # More chunks than requested; the number that was saved depends on timing.
        import json

        from quantize.imatrix.checkpoint import load_gathered

        with np.load(resume) as file:
            fingerprint = json.loads(str(file["about"]))["fingerprint"]
        found = load_gathered(resume, fingerprint)
        assert isinstance(found, Gathered)
        found.n_chunks = 4
        found.save(resume, fingerprint)
    report = run(demo_gguf, output, chunks=2)
    assert report.resumed_from == 0
    assert len(report.notices) == 1
    assert "x.gguf.resume: not used" in report.notices[0]
    assert output.read_bytes() == whole.read_bytes()
    assert not resume.exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [("exception", ["RuntimeError: broken on purpose"]), ("layout", ["unknown tensor layout"])],
)
def test_error_in_the_llama_cpp_callback_ends_the_run(
    demo_gguf: Path, tmp_path: Path, fault: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """End the run, because ctypes would print an exception and continue, and another layout gives wrong numbers."""

    def run_broken(module: str, job: Mapping[str, Any], **options: Any) -> LlamaLog:
        assert module == "quantize.imatrix.llama_gather"
        return run_child("tests.support.imatrix_broken", job, **options)

    monkeypatch.setenv("FAULT", fault)
    monkeypatch.setattr(import_module("quantize.imatrix.gather"), "run_child", run_broken)
    fails(QuantizationError, demo_gguf, tmp_path / "x.gguf", *words)


def overflowing(path: Path, header: GgufHeader) -> None:
    rows(path, tensor(header, "blk.1.attn_norm.weight")).view(np.float32)[:] = 3e38


def fails(error: type[TurboPilotError], model: Path, output: Path, *words: str, **kw: Any) -> None:
    with pytest.raises(error) as e:
        run(model, output, **kw)
    for word in words:
        assert word in str(e.value)
    assert e.value.hint
    assert not output.exists()
    assert not output.with_name(output.name + ".resume").exists()


def test_weight_with_nonfinite_input_is_named(demo_gguf: Path, tmp_path: Path) -> None:
    for edit in (not_a_number("blk.1.attn_norm.weight"), overflowing):
        bad = faulty(demo_gguf, tmp_path / "bad.gguf", edit)
        fails(QuantizationError, bad, tmp_path / "x.gguf", "bad.gguf: blk.1.attn_", "not finite")


def test_unusable_inputs_are_rejected(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    fails(InvalidInput, tmp_path / "none.gguf", out, "no such file")
    fails(QuantizationError, demo_gguf, out, "tokens long, less than one chunk of 96", text="x = 1")
    fails(QuantizationError, demo_gguf, out, "the text is 0 tokens long", text="")
    longest = read_gguf(demo_gguf).metadata["phi2.context_length"]
    assert isinstance(longest, int)
    fails(InvalidInput, demo_gguf, out, f"at most {longest:,} tokens", chunk_size=longest + 1)
    fails(InvalidInput, demo_gguf, out, "nothing to read", chunks=0)
    fails(InvalidInput, demo_gguf, tmp_path / "none" / "x.gguf", "no such folder")
    entry = Entry(np.ones((1, 3), np.float32), np.ones(1, np.int64))
    other = Imatrix({"blk.0.attn_q.weight": entry}, ("x",), 1, 512)
    fails(QuantizationError, demo_gguf, out, "3 columns", others=(other,))
    (tmp_path / "short.gguf").write_bytes(demo_gguf.read_bytes()[:-5000])
    fails(CorruptModel, tmp_path / "short.gguf", out, "outside")
