"""The tasks that come with the package."""

from __future__ import annotations

import pytest

from turbopilot.tasks.suite import SUITES


@pytest.mark.parametrize(("name", "n"), [("infill", 1033), ("span", 164), ("complete", 164)])
def test_every_task_has_a_gap_a_solution_and_a_test(name: str, n: int) -> None:
    tasks = SUITES[name].tasks
    assert len({t.name for t in tasks}) == len(tasks) == n
    for t in tasks:
        assert t.solution.strip()
        assert f"check({t.entry_point})" in t.program(t.solution)
        assert "def check(" in t.test
        assert (t.suffix is None) == (name == "complete")


def test_sample_is_repeatable_and_grows() -> None:
    suite = SUITES["infill"]
    small, large = suite.sample(10, 7), suite.sample(50, 7)
    assert small == suite.sample(10, 7)
    assert set(small) <= set(large)
    assert large == [t for t in suite.tasks if t in set(large)]
    assert suite.sample(10, 8) != small
    assert suite.sample(None, 7) == suite.sample(5000, 7) == suite.tasks


def test_program_of_a_line_without_newline_is_complete() -> None:
    task = next(t for t in SUITES["infill"].tasks if t.suffix and t.suffix.startswith("  "))
    assert task.program(task.solution.rstrip("\n")) == task.program(task.solution)
