"""The `turbopilot quantize --fit` command."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantize import find_recipe
from quantize.fit import CANDIDATES
from quantize.fit.units import SEARCHED
from turbopilot import corpus
from turbopilot.base.errors import NotEnoughDisk
from turbopilot.cli import app
from turbopilot.formats.gguf import file
from turbopilot.formats.gguf.cursor import Cursor
from turbopilot.formats.gguf.description import describe_gguf
from turbopilot.formats.gguf.file import read_gguf

ALL_TYPES = ("--quick", "-t", "1", "--ctx", "256")
# Without the types for which ggml searches tables, which takes ten times as long, and without Q4_1 and Q5_1, which are
# used only if --types names them.
FAST = tuple(t for t in CANDIDATES if t not in (*SEARCHED, "Q4_1", "Q5_1"))
QUICK = (*ALL_TYPES, "--types", ",".join(FAST))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the beginnings of the texts: the time limits need not end the work, whatever the machine's speed."""
    windows, chunks = corpus.calibration_text()[:1600], corpus.calibration_text()[:20_000]
    evaluation = corpus.evaluation_text()[:20_000]
    monkeypatch.setattr("turbopilot.app.memory_fit.calibration_text", lambda: windows)
    monkeypatch.setattr("turbopilot.app.memory_fit.evaluation_text", lambda: evaluation)
    monkeypatch.setattr("turbopilot.corpus.calibration_text", lambda: chunks)


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["quantize", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def smallest(demo_gguf: Path) -> int:
    """Return the smallest budget, in bytes, that the error's hint suggests."""
    code, _, err = run(demo_gguf, "--fit", "1MB", *QUICK)
    assert code == 6, err
    found = re.search(r"needs --fit (\d+)MB", err)
    assert found
    return int(found[1]) * 1_000_000


@pytest.mark.usefixtures("short_texts")
def test_fit_writes_runs_and_compares(demo_gguf: Path, tmp_path: Path) -> None:
    """Compute a matrix, measure sensitivities, write and run the file, and compare it with a standard type."""
    out = tmp_path / "fitted.gguf"
    budget = smallest(demo_gguf) + 2_000_000
    candidates = {*FAST, "IQ2_XXS"}  # IQ2_XXS: a type that needs the matrix
    options = (
        "--ctx", 256, "--cache-type", "q8_0", "--minutes", 30, "--compare", 1, "-t", 1, "--json", "-o", out,
        "--types", ",".join(candidates),
    )  # fmt: skip
    code, told, err = run(demo_gguf, "--fit", budget, *options)
    assert code == 0, err
    report = json.loads(told)
    memory, fitted = report["memory"], report["fitted"]
    assert memory["total"] == budget
    assert memory["room"] + memory["process"] + memory["kv"] + memory["compute"] == budget
    assert report["sensitivity"]["measured"]
    assert fitted["tensor_bytes"] == sum(t.n_bytes for t in read_gguf(out).tensors)
    assert fitted["tensor_bytes"] <= memory["room"]
    assert fitted["predicted_bytes"] <= budget
    assert fitted["measured_bytes"] == pytest.approx(fitted["predicted_bytes"], rel=0.05)
    assert fitted["divergence"]["mean_kl"] > 0
    first, *rest = report["plain"]
    assert first["divergence"]["mean_kl"] > 0
    assert not any(row["divergence"] for row in rest)
    for row in report["plain"]:
        assert row["tensor_bytes"] <= memory["room"]
        if set(row["weights"]) <= candidates:
            assert row["predicted_kl"] >= 0.98 * fitted["predicted_kl"]
    assert [p.name for p in tmp_path.iterdir()] == ["fitted.gguf"]
    made = describe_gguf(out).quantized
    assert made
    assert (made.memory, made.n_ctx, made.source) == (budget, 256, demo_gguf.name)
    assert made.source_sha256 == (hashlib.sha256(demo_gguf.read_bytes()).hexdigest(),)
    assert len(made.imatrix_sha256) == 64
    assert float(made.predicted_kl) > 0
    shown = CliRunner().invoke(app, ["inspect", str(out)]).stdout
    assert f"{made.source_sha256[0]}  {demo_gguf.name}" in shown
    assert "with 256 tokens of context, KL" in shown


@pytest.mark.usefixtures("short_texts")
def test_small_disk_skips_only_the_comparison(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise NotEnoughDisk("no room for logits")

    monkeypatch.setattr("turbopilot.app.memory_fit.keep_reference", full)
    out = tmp_path / "x.gguf"
    options = (
        "--ctx", 256, "--imatrix", "none", "--minutes", 30, "--compare", 0, "-t", 1, "--types", "q4_0,q8_0",
        "-o", out,
    )  # fmt: skip
    code, told, err = run(demo_gguf, "--fit", "1GB", *options)
    assert code == 0, err
    assert "divergence is not measured: no room for logits" in err
    assert read_gguf(out).tensors
    assert "sensitivities measured" in told


def test_quick_fit_does_not_run_the_model(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    budget = smallest(demo_gguf) + 2_000_000
    code, told, err = run(demo_gguf, "--fit", budget, *ALL_TYPES, "-o", out)
    assert code == 0, err
    assert "chosen by rounding errors only" in told
    assert "KV cache of 256 tokens (f16)" in " ".join(told.split())
    assert "fitted" in told
    assert "Q6_K" in told
    assert "imatrix" not in err
    code, told, _ = run(demo_gguf, "--fit", budget, *ALL_TYPES, "--dry-run", "--json")
    assert code == 0
    planned = {t["name"] for t in json.loads(told)["tensors"]}
    header = read_gguf(out)
    assert set(planned) == {t.name for t in header.tensors}
    # The memory of the process differs by some kB from run to run, and so does the room for the weights.
    assert abs(json.loads(told)["tensor_bytes"] - header.tensor_bytes) < 500_000


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Path]]:
    """Return lists that record modules started as child processes and files whose header is parsed here."""
    started: list[str] = []
    parsed: list[Path] = []
    popen, parse = subprocess.Popen, file._parse

    def start(command: list[str], **options: Any) -> Any:
        started.append(command[-1])
        return popen(command, **options)

    def read(cursor: Cursor) -> Any:
        parsed.append(cursor.path)
        return parse(cursor)

    monkeypatch.setattr("turbopilot.llama.child.subprocess.Popen", start)
    monkeypatch.setattr(file, "_parse", read)
    return started, parsed


def test_sizes_are_computed_without_processes(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One process reports the context's memory and one the rounding errors; a full run adds one that writes.
    started, parsed = counted(monkeypatch)
    code, _, err = run(demo_gguf, "--fit", "1GB", *QUICK, "--dry-run")
    assert code == 0, err
    assert len(started) == 2
    assert parsed == [demo_gguf]
    started.clear()
    code, told, err = run(demo_gguf, "--fit", "1GB", *QUICK, "--json", "-o", tmp_path / "x.gguf")
    assert code == 0, err
    assert len(json.loads(told)["plain"]) > 10
    assert len(started) == 3


def test_plan_with_enough_memory_is_all_f16(demo_gguf: Path, tmp_path: Path) -> None:
    code, told, err = run(demo_gguf, "--fit", "10GB", *QUICK, "--dry-run")
    assert code == 0, err
    heading = next(line for line in told.splitlines() if "bits per weight" in line)
    assert re.match(r"fitted: [\d,]+ bytes of tensors, 16\.\d\d bits per weight", heading)
    code, _, err = run(demo_gguf, "--fit", "10GB", *QUICK, "-o", tmp_path / "x.gguf")
    assert code == 0, err
    header = read_gguf(tmp_path / "x.gguf")
    assert {t.type_name for t in header.tensors} == {"F16", "F32"}
    assert header.metadata["general.file_type"] == find_recipe("F16").ftype


def test_smallest_size_in_the_hint_can_be_made(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    budget = smallest(demo_gguf)
    code, _, err = run(demo_gguf, "--fit", budget, *QUICK, "-o", out)
    assert code == 0, err
    code, _, err = run(demo_gguf, "--fit", budget - 6_000_000, *QUICK, "-o", tmp_path / "y.gguf")
    assert code == 6, err
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_types_option_limits_the_choice(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    code, _, err = run(demo_gguf, "--fit", "1GB", *ALL_TYPES, "--types", "q4_0, q8_0", "-o", out)
    assert code == 0, err
    kinds = {t.type_name for t in read_gguf(out).tensors if len(t.shape) == 2}
    assert kinds == {"Q8_0"}


def test_iq4_nl_cache_is_fitted(demo_gguf: Path) -> None:
    arguments = (*QUICK, "--cache-type", "iq4_nl", "--dry-run")
    code, _, err = run(demo_gguf, "--fit", "1GB", *arguments)
    assert code == 0, err


def test_rejected_fit_leaves_no_file(demo_gguf: Path, demo_q4_0: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    for arguments, words in (
        ((demo_gguf, "Q4_0", "--fit", "1GB"), "Q4_0: cannot be combined with --fit"),
        ((demo_gguf, "--fit", "1GB", "--pure"), "--pure: cannot be combined with --fit"),
        ((demo_gguf, "--fit", "much"), "--fit much: not a size"),
        ((demo_gguf, "--fit", "1GB", "--types", "q4_k_m"), "did you mean Q4_K or"),
        ((demo_gguf, "--fit", "1GB", "--cache-type", "q8"), "did you mean Q8_0?"),
        ((demo_gguf, "--fit", "1MB", "--quick"), "does not fit into 1"),
        ((demo_q4_0, "--fit", "1GB", "--quick"), "is already quantized to Q4_0"),
        ((demo_gguf, "--fit", "1GB", "--imatrix", tmp_path / "none"), "none"),
        ((demo_gguf,), "give a model and a type"),
    ):
        code, told, err = run(*arguments, "-o", out)
        assert code != 0, arguments
        assert words in err, (arguments, err)
        assert not told
        assert not list(tmp_path.iterdir())


def test_existing_output_is_kept_without_force(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    out.write_text("mine")
    code, _, err = run(demo_gguf, "--fit", "1GB", *QUICK, "-o", out)
    assert code != 0
    assert "--force" in err
    assert out.read_text() == "mine"
    code, _, err = run(demo_gguf, "--fit", "1GB", *QUICK, "-o", out, "--force")
    assert code == 0, err
    assert read_gguf(out).tensors


def test_text_needs_fit_and_enough_text(demo_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("x = 1\n")
    code, _, err = run(demo_gguf, "Q4_0", "--text", tmp_path)
    assert code == 2
    assert "--text needs --fit" in err
    code, _, err = run(demo_gguf, "--fit", "300MB", "--text", tmp_path / "short.py")
    assert code == 2
    assert "too little text" in err


def test_own_code_decides_and_compares(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unused() -> str:
        raise AssertionError("the bundled text was read")

    for name in ("calibration_text", "evaluation_text"):
        monkeypatch.setattr(f"turbopilot.app.memory_fit.{name}", unused)
    text = corpus.evaluation_text()
    (tmp_path / "1.txt").write_text(text[:2100], "utf-8")
    (tmp_path / "2.txt").write_text(text[2100:20_000], "utf-8")
    options = (
        "--ctx", 256, "--minutes", 30, "--compare", 2, "-t", 1, "--json", "--imatrix", "none",
        "--types", "Q8_0,Q4_0", "-o", tmp_path / "fitted.gguf", "--text", tmp_path,
    )  # fmt: skip
    code, told, err = run(demo_gguf, "--fit", smallest(demo_gguf) + 2_000_000, *options)
    assert code == 0, err
    report = json.loads(told)
    assert report["sensitivity"]["measured"]
    assert report["fitted"]["divergence"]["mean_kl"] > 0
    assert len([row for row in report["plain"] if row["divergence"]]) == 2
    assert -1 <= report["rank_correlation"] <= 1
