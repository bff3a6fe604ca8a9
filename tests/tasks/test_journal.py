"""Completions on disk: an interrupted run resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.tasks.journal import Journal, TaskCompletion

ONE, TWO = TaskCompletion("x = 1\n", 5, 3), TaskCompletion("é\u2028", None, 0)
ABOUT = {"files": {"a": "0"}}


def test_completions_are_read_again(tmp_path: Path) -> None:
    with Journal(tmp_path, ABOUT) as journal:
        assert journal.known == {}
        journal.add("one", ONE)
        journal.add("two", TWO)
    with Journal(tmp_path, ABOUT) as journal:
        assert journal.known == {"one": ONE, "two": TWO}
    with Journal(tmp_path, {"files": {"a": "1"}}) as other:
        assert other.known == {}


@pytest.mark.parametrize(
    "end", ['{"task": "three", "te', "\n\n", '{"task": "three"}\n', "[]\n", "\xff\n"]
)
def test_line_that_was_cut_off_is_dropped(tmp_path: Path, end: str) -> None:
    with Journal(tmp_path, ABOUT) as journal:
        journal.add("one", ONE)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole + end.encode("latin-1"))
    with Journal(tmp_path, ABOUT) as journal:
        assert journal.known == {"one": ONE}
        journal.add("two", TWO)
    with Journal(tmp_path, ABOUT) as journal:
        assert journal.known == {"one": ONE, "two": TWO}
    assert file.read_bytes().startswith(whole)


def test_nothing_is_kept_without_a_folder() -> None:
    with Journal(None, ABOUT) as journal:
        journal.add("one", ONE)
        assert journal.known == {"one": ONE}
