"""The `turbopilot imatrix` command and its statistics."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.imatrix import Entry, Imatrix, by_layer, read_imatrix, statistics, write_imatrix
from tests.cli.test_cli import run
from tests.support.imatrix_lab import TEXT


def entry(sums: list[list[float]], counts: list[int]) -> Entry:
    return Entry(np.array(sums, np.float32), np.array(counts, np.int64))


def small() -> Imatrix:
    return Imatrix(
        {
            "blk.0.attn_q.weight": entry([[2.0, 2.0, 2.0, 2.0]], [2]),
            "blk.1.attn_q.weight": entry([[40.0, 0.0, 0.0, 0.0]], [2]),
            "blk.1.ffn_up_exps.weight": entry([[6.0, 2.0], [0.0, 0.0]], [2, 0]),
            "output.weight": entry([[2.0, 2.0]], [1]),
            "blk.2.never.weight": entry([[0.0]], [0]),
        },
        ("a.txt", "b.txt"),
        1,
        2,
    )


def test_statistics_of_a_matrix() -> None:
    by_name = {s.name: s for s in statistics(small())}
    assert list(by_name) == [
        "blk.1.attn_q.weight", "blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight", "output.weight",
    ]  # fmt: skip
    flat, peak, experts, head = (
        by_name[n]
        for n in (
            "blk.0.attn_q.weight",
            "blk.1.attn_q.weight",
            "blk.1.ffn_up_exps.weight",
            "output.weight",
        )
    )
    assert (flat.layer, flat.n, flat.total, flat.least, flat.most) == (0, 4, 4.0, 1.0, 1.0)
    assert (flat.mean, flat.deviation, flat.active, flat.entropy) == (1.0, 0.0, 1.0, 1.0)
    assert (flat.outliers, flat.similarity) == (0.0, None)
    assert (peak.total, peak.least, peak.most, peak.mean) == (20.0, 0.0, 20.0, 5.0)
    assert peak.deviation == pytest.approx(math.sqrt(75))
    assert (peak.active, peak.entropy, peak.outliers, peak.similarity) == (0.25, 0.0, 0.25, 0.5)
    assert (experts.n, experts.total, experts.mean) == (2, 4.0, 2.0)
    assert experts.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert (head.layer, head.similarity) == (None, None)
    zero, one = by_layer(statistics(small()))
    assert (zero.layer, zero.total, zero.outliers, zero.similarity) == (0, 4.0, 0.0, None)
    assert (one.layer, one.similarity) == (1, 0.5)
    assert one.total == pytest.approx((4 * 20 + 2 * 4) / 6)
    assert one.outliers == pytest.approx(0.25 * 4 / 6)


def test_show_prints_statistics(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_imatrix(path, small())
    code, out, _ = run("imatrix", "--show", str(path))
    assert code == 0
    for words in (
        "5 weights, 1 chunk of 2 tokens",
        "a.txt, b.txt",
        "attn_q",
        "ffn_up_exps",
        "0.500",
    ):
        assert words in " ".join(out.split())
    code, out, _ = run("imatrix", "--show", str(path), "--layers")
    assert code == 0
    assert "attn_q" not in out
    assert "similarity" in out
    told = json.loads(run("imatrix", str(path), "--show", "--json")[1])
    assert told["tensors"][0]["name"] == "blk.1.attn_q.weight"
    assert len(told["layers"]) == 2
    assert run("imatrix", "--show")[0] == 2
    assert run("imatrix", "--show", str(tmp_path / "none.gguf"))[0] == 2


def gathered(demo: Path, folder: Path, *more: str) -> tuple[int, str, str]:
    (folder / "code.py").write_text(TEXT, "utf-8")
    options = [
        "--text",
        str(folder / "code.py"),
        "--chunks",
        "2",
        "--ctx",
        "64",
        "-t",
        "1",
        "--ngl",
        "0",
    ]
    return run("imatrix", str(demo), *options, *more)


def test_matrix_is_gathered(demo_gguf: Path, tmp_path: Path) -> None:
    demo = tmp_path / "demo-f16.gguf"
    demo.symlink_to(demo_gguf)
    code, out, err = gathered(demo, tmp_path)
    assert (code, err.count("error")) == (0, 0), err
    assert "demo-imatrix.gguf: 24 weights from 2 chunks of 64 tokens" in out
    assert "perplexity" in out
    matrix = read_imatrix(tmp_path / "demo-imatrix.gguf")
    assert (matrix.datasets, matrix.n_chunks) == (("code.py",), 2)
    code, _, err = gathered(demo, tmp_path)
    assert code == 2
    assert "exists already" in err
    code, out, _ = gathered(
        demo, tmp_path, "--force", "--json", "--in-file", str(tmp_path / "demo-imatrix.gguf")
    )
    assert code == 0
    told: dict[str, Any] = json.loads(out)
    assert (told["n_chunks"], told["n_entries"]) == (2, 24)
    assert read_imatrix(tmp_path / "demo-imatrix.gguf").n_chunks == 4


def test_matrices_are_merged_without_a_model(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "a.gguf", small())
    files = ["--in-file", str(tmp_path / "a.gguf")] * 2
    code, out, _ = run("imatrix", *files, "-o", str(tmp_path / "b.gguf"), "--json")
    assert code == 0
    assert json.loads(out)["n_entries"] == 5
    merged = read_imatrix(tmp_path / "b.gguf")
    assert merged.entries["output.weight"].sums.tolist() == [[4.0, 4.0]]
    for wrong in (
        files,
        ["-o", str(tmp_path / "c.gguf")],
        [*files, "-o", str(tmp_path / "a.gguf"), "--force"],
    ):
        code, _, err = run("imatrix", *wrong)
        assert code == 2
        assert "\nhint: " in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "none.txt"], "none.txt: no such file"),
        (["--ngl", "many"], "--ngl many: not a number"),
        (["--in-file", "none.gguf"], "none.gguf: no such file"),
    ],
)
def test_bad_arguments_are_rejected(
    demo_gguf: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = gathered(demo_gguf, tmp_path, "-o", "x.gguf", *arguments)
    assert code == 2
    assert words in err
    assert not (tmp_path / "x.gguf").exists()


def test_interrupted_run_names_its_partial_matrix(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, _total: int, _what: str = "", /) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(
        "turbopilot.base.progress.silent", interrupt
    )  # what console.progress yields in a pipe
    output = tmp_path / "x.gguf"
    code, _, err = gathered(demo_gguf, tmp_path, "-o", str(output))
    assert code == 130
    assert "x.gguf.resume: partial matrix; run the same command again to resume" in err
    monkeypatch.undo()
    code, _, err = gathered(demo_gguf, tmp_path, "-o", str(output))
    assert code == 0
    assert "resumed from chunk 1" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code.py", "x.gguf"]
