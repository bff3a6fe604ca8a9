"""Child process of llama.cpp: messages, errors, exit and import path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from turbopilot.base.errors import CorruptModel
from turbopilot.llama.child import ChildFailed, run_child

CHILD = "tests.support.llama_child"


def test_messages_and_log_reach_the_parent() -> None:
    messages: list[Any] = []
    lines: list[str] = []
    log = run_child(CHILD, {"do": "talk"}, on_message=messages.append, on_log=lines.append)
    assert messages == [{"heard": "talk"}]
    assert lines == ["half ", "half a line\n"]
    assert [text for _, text in log.lines] == ["half a line"]


def test_child_error_is_raised_in_the_parent() -> None:
    with pytest.raises(CorruptModel, match=r"^x\.gguf: broken$") as caught:
        run_child(CHILD, {"do": "raise"})
    assert caught.value.hint == "download it again"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("crash", "failed: Traceback.*KeyError"),
        ("exit", "failed: the reason"),
        ("abort", "was terminated by signal 6"),
    ],
)
def test_child_that_crashes_or_exits_raises_child_failed(what: str, words: str) -> None:
    with pytest.raises(ChildFailed, match=f"(?s)^{words}"):
        run_child(CHILD, {"do": what})


def test_child_is_killed_after_the_timeout() -> None:
    with pytest.raises(ChildFailed, match="it took more than 0 seconds"):
        run_child(CHILD, {"do": "wait"}, timeout=0.01)


def test_child_ignores_modules_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "llama_cpp", "json", "runpy"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    run_child(CHILD, {"do": "talk"})
    assert not (tmp_path / "ran").exists()
