"""The functions of Vim and Emacs that run `turbopilot complete`, in these editors."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.security_options import SecurityOptions
from tests.support.fakes import FakeDecoder, around_the_cursor
from tests.support.serving import Running, running
from turbopilot.editors import DEFAULT_MODEL, Target, address_of, fill, find

ROOT = Path(__file__).parents[2]
KEY = "it's-1"
BEFORE = "def f():\n\tü = '汉"  # the cursor is after it
AFTER = "😀'\n    # end\n"

# Completes a file with these settings; writes the editor's messages beside it.
RunEditor = Callable[[str, Path, Path], None]


def on_path(folder: Path) -> dict[str, str]:
    """Return an environment whose `turbopilot` is that of this repository."""
    program = folder / "turbopilot"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m turbopilot "$@"\n')
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}


def run_vim(program: str, settings: Path, file: Path) -> None:
    """Press Ctrl-L after the seventh character of the second line."""
    keys = 'exe "normal 2G06la\\<C-L>"'
    subprocess.run(
        [program, "--cmd", "set nocompatible encoding=utf-8", "-u", str(settings), "-i", "NONE", "-n", "-es", str(file),
         "-c", "set autoindent", "-c", keys, "-c", f"redir! > {file}.log", "-c", "silent messages", "-c", "wq"],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=100, env=on_path(file.parent),
    )  # fmt: skip


def run_emacs(program: str, settings: Path, file: Path) -> None:
    """Call the command after the seventh character of the second line."""
    keys = "(forward-line 1) (forward-char 7)"
    shown = '(user-error (message "%s" (error-message-string e)))'  # as outside of batch mode
    call = f"(condition-case e (turbopilot-complete) {shown})"
    command = f"(progn (goto-char (point-min)) {keys} {call} (save-buffer))"
    done = subprocess.run(
        [program, "--batch", "-Q", "-l", str(settings), str(file), "--eval", command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100, env=on_path(file.parent),
    )  # fmt: skip
    Path(f"{file}.log").write_text(done.stderr)


@dataclass(frozen=True)
class Case:
    """An editor, its entry, and the name of its file of settings."""

    program: str
    entry: str
    settings: str
    run: RunEditor

    def complete(self, server: Running, folder: Path, key: str) -> tuple[str, str]:
        """Complete a file in the editor; return the file's text and the messages."""
        if shutil.which(self.program) is None:
            pytest.skip(f"no {self.program}")
        (entry,) = find(self.entry)
        target = Target(address_of("127.0.0.1", server.port), DEFAULT_MODEL, key)
        settings, file = folder / self.settings, folder / "a.py"
        settings.write_text(fill(entry.settings[0], target), "utf-8")
        file.write_text(BEFORE + AFTER, "utf-8")
        self.run(self.program, settings, file)
        return file.read_text("utf-8"), Path(f"{file}.log").read_text("utf-8")


CASES = (
    Case("vim", "vim-function", "v.vim", run_vim),
    Case("nvim", "vim-function", "v.vim", run_vim),
    Case("emacs", "emacs-function", "e.el", run_emacs),
)


@pytest.fixture(params=CASES, ids=lambda c: c.program)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def server() -> Iterator[Running]:
    security = SecurityOptions(api_keys=(KEY,))
    with running(FakeDecoder(n_ctx=1024), security=security) as started:
        yield started


def test_completion_is_inserted_at_the_cursor(case: Case, server: Running, tmp_path: Path) -> None:
    text, _ = case.complete(server, tmp_path, KEY)
    assert text.startswith(BEFORE)
    assert text.endswith(AFTER)
    assert len(text) == len(BEFORE + AFTER) + 64
    (asked,) = server.runner.seen
    prefix, suffix = around_the_cursor(asked.prompt)
    assert (prefix, suffix.rstrip("\n")) == (BEFORE, AFTER.rstrip("\n"))
    assert asked.file.endswith("a.py")


def test_error_is_shown_and_changes_nothing(case: Case, server: Running, tmp_path: Path) -> None:
    text, messages = case.complete(server, tmp_path, "")
    assert text == BEFORE + AFTER
    assert "requires an API key" in messages
