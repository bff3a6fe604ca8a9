"""Completions of tasks by files and their references."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.verify_lab import Lab
from turbopilot.app import task_run
from turbopilot.app.task_run import TaskOptions, run_tasks
from turbopilot.base.progress import Reporter
from turbopilot.cli import app
from turbopilot.tasks.report import TaskReport, outcome
from turbopilot.tasks.suite import SUITES, Task

OPTIONS = TaskOptions(("infill", "complete"), n=3, seed=2)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab("starcoder2", tmp_path_factory.mktemp("lab"), max_position_embeddings=2048)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(files: list[Path], reference: Path, options: TaskOptions = OPTIONS) -> list[TaskReport]:
    return list(run_tasks(files, reference, options, Reporter()))


def test_pytorch_and_f32_file_write_the_same_completions(lab: Lab) -> None:
    infill, complete = run([lab.gguf("f32")], lab.checkpoint)
    for r in (infill, complete):
        assert (r.n, r.equal, r.first_tokens) == (3, 3, 3)
        assert r.similarity[0] == r.similarity[1]
        assert r.exact.difference == 0
    assert infill.layout == "starcoder"


def test_coarse_file_writes_other_completions(lab: Lab) -> None:
    infill, _ = run([lab.gguf("q4_0")], lab.gguf("f32"))
    assert infill.equal < 3


def test_completions_do_not_depend_on_earlier_tasks(lab: Lab, cache: Path) -> None:
    def stored() -> dict[str, Any]:
        (file,) = (cache / "completions").iterdir()
        lines = file.read_text("utf-8").splitlines()
        return {row["task"]: row for row in map(json.loads, lines)}

    one = TaskOptions(("infill",), n=1, seed=2)
    run([lab.gguf("q4_0")], lab.gguf("q4_0"), one)
    alone = stored()
    run([lab.gguf("q4_0")], lab.gguf("q4_0"), TaskOptions(("infill",), n=3, seed=2, keeps=False))
    assert stored() == alone
    run([lab.gguf("q4_0")], lab.gguf("q4_0"), TaskOptions(("infill",), n=3, seed=2))
    assert len(stored()) == 3
    assert stored().items() >= alone.items()


def test_interrupted_run_resumes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = task_run._generated

    def interrupted(*given: Any) -> Iterator[Any]:
        for task, found in real(*given):
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(task.name)
            yield task, found

    options = TaskOptions(("infill",), n=3, seed=2)
    files = [lab.gguf("q4_0")]
    whole = run(files, files[0], TaskOptions(("infill",), n=3, seed=2, keeps=False))
    monkeypatch.setattr(task_run, "_generated", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(files, files[0], options)
    todo: list[int] = []

    def counted(decoder: Any, suite: Any, tasks: list[Task]) -> Iterator[Any]:
        todo.append(len(tasks))
        return real(decoder, suite, tasks)

    monkeypatch.setattr(task_run, "_generated", counted)
    assert run(files, files[0], options) == whole
    assert run(files, files[0], options) == whole
    assert todo == [1]


def test_outcome_ignores_white_space_at_the_ends() -> None:
    task = SUITES["infill"].tasks[0]
    assert outcome(task, f"  {task.solution.strip()}\n\n").exact
    assert outcome(task, task.solution).similarity == 1
    other = outcome(task, task.solution + "x")
    assert not other.exact
    assert 0.9 < other.similarity < 1


def test_verify_shows_tasks(lab: Lab) -> None:
    words = [
        "verify",
        str(lab.gguf("f32")),
        "--against",
        str(lab.gguf("f32")),
        "--positions",
        "300",
    ]
    done = CliRunner().invoke(app, [*words, "--task", "infill", "--tasks", "2", "--seed", "2"])
    assert done.exit_code == 0, done.output
    assert "2 of 1,033 tasks, seed 2; layout starcoder" in " ".join(done.stdout.split())
    assert "100.00 %" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[-12:])
    done = CliRunner().invoke(
        app, [*words, "--task", "infill", "--tasks", "2", "--seed", "2", "--json"]
    )
    (found,) = json.loads(done.stdout)["tasks"]
    assert (found["suite"], found["n"], found["equal"]) == ("infill", 2, 2)
    assert found["exact"]["p_value"] == 1
    assert found["passed"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "infil"], "infill"),
        (["--tasks", "5"], "--tasks needs --task"),
        (["--execute"], "--execute needs --task"),
    ],
)
def test_wrong_options_are_refused(lab: Lab, words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["verify", str(lab.gguf("f32")), "--against", "demo", *words])
    assert done.exit_code != 0
    assert message in done.output
