"""The `turbopilot bench` command."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turbopilot.cli import app

SHORT = ("-p", "16", "-n", "4", "-r", "2", "-t", "1")


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_results_as_json_and_plot(demo_gguf: Path, demo_q4_0: Path, tmp_path: Path) -> None:
    plot = tmp_path / "p.svg"
    code, out, err = run(
        demo_gguf, demo_q4_0, "--against", demo_gguf, "--positions", "255", *SHORT, "--json", "--plot", plot
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["against"] == str(demo_gguf)
    f16, q4_0 = told["files"]
    assert [f["type"] for f in told["files"]] == ["F16", "Q4_0"]
    assert [f["file"] for f in told["files"]] == [str(demo_gguf), str(demo_q4_0)]
    for file in (f16, q4_0):
        assert len(file["prompt"]["samples"]) == len(file["generation"]["samples"]) == 2
        assert file["prompt"]["median"] > 0
        assert file["memory"]["peak"] > file["bytes"]
        assert file["threads"] == 1
        assert file["divergence"]["positions"] == 255
    assert q4_0["divergence"]["mean_kl"] > 1e-3 > f16["divergence"]["mean_kl"]
    assert len(ET.parse(plot).findall(".//{*}circle")) == 2


def test_table_has_a_row_per_thread_count(demo_q4_0: Path) -> None:
    code, out, _ = run(demo_q4_0, "-p", "8", "-n", "0", "-r", "1", "-t", "1,2", "--ctx", "256")
    assert code == 0
    lines = [line for line in out.splitlines() if demo_q4_0.name in line]
    assert [re.split("  +", line)[4] for line in lines] == ["1", "2"]
    assert out.startswith("llama-cpp-python ")
    assert "threads: 1 and 2 · no GPU · context 256" in " ".join(out.split())
    assert "mean KL" not in out


def test_bad_arguments_are_rejected(demo_q4_0: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--plot", tmp_path / "x.png"), "only SVG"),
        (("--plot", tmp_path / "none" / "x.svg"), "no such folder"),
        (("-t", "two"), "-t two"),
        (("--ngl", "-1"), "must not be negative"),
        (("--cache-type", "q8"), "did you mean Q8_0"),
        (("--positions", "9"), "--positions needs a reference to compare with"),
        (("--against", tmp_path / "absent.gguf"), "absent.gguf: no such file"),
        (("-p", "5000"), "do not fit into its context of 1,024"),
    ):
        code, out, err = run(demo_q4_0, *arguments)
        assert (code, out) == (2, ""), arguments
        assert words in err


def test_iq4_nl_cache_is_measured(demo_q4_0: Path) -> None:
    short = ("-p", "8", "-n", "0", "-r", "1", "-t", "1", "--json")
    code, out, err = run(demo_q4_0, *short, "--cache-type", "iq4_nl")
    assert code == 0, err
    assert json.loads(out)["files"][0]["prompt"]["median"] > 0


def test_own_text_is_compared(demo_q4_0: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.py"
    text.write_text("import os\n" * 40, "utf-8")
    code, out, err = run(demo_q4_0, "--against", demo_q4_0, "--text", text, "--json", *SHORT)
    assert code == 0, err
    found = json.loads(out)["files"][0]["divergence"]
    assert 10 < found["positions"] < 200
    assert found["max_kl"] == pytest.approx(0, abs=1e-9)


def test_completions_of_tasks_are_compared(
    demo_gguf: Path, demo_q4_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    plot = tmp_path / "p.svg"
    words = [demo_gguf, demo_q4_0, "--against", demo_gguf, "--positions", "255", *SHORT]
    tasks = ["--task", "infill", "--tasks", "2"]
    code, out, err = run(*words, *tasks, "--json", "--plot", plot)
    assert code == 0, err
    first, second = (f["tasks"] for f in json.loads(out)["files"])
    assert first["equal"] == first["n"] == second["n"] == 2
    assert f"solves {second['exact']['candidate']} of 2" in plot.read_text("utf-8")
    _, shown, _ = run(*words, *tasks)
    assert "solved" in shown
    assert "single lines to fill in" in " ".join(shown.split())


@pytest.mark.parametrize("words", [("--task", "infill"), ("--tasks", "3")])
def test_tasks_need_a_reference(demo_gguf: Path, words: tuple[str, str]) -> None:
    code, _, err = run(demo_gguf, *words)
    assert code == 2
    assert f"{words[0]} needs" in err
