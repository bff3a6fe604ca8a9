"""Tests of llama.vim in Vim in a terminal, against a live server with the bundled model."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.asked import KEY, WRONG_KEY
from tests.clients.fixtures import require
from tests.clients.live import Live, wait_until
from tests.clients.tools import DRIVERS, Lines, talk
from tests.support.fakes import FakeDecoder, around_the_cursor
from tests.support.serving import running, wait

pytestmark = pytest.mark.clients

SOURCE = (
    "def add(a, b):\n    return a + b\n\n\ndef multiply(a, b):\n\n\nprint(multiply(2, add(1, 2)))\n"
)
# Keys: go to the end of line 6, then type this text.
TYPED = "6GA    return a"


class Screen:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def do(self, what: str, **more: str) -> dict[str, Any]:
        self._lines.say({"do": what, **more})
        found = self._lines.hear()
        assert found is not None
        assert "screen" not in found, found["screen"]
        return dict(found)

    def quit(self) -> None:
        self._lines.say({"do": "quit"})
        assert self._lines.hear() == {"ended": True}


@contextmanager
def vim(url: str, folder: Path, key: str = "") -> Iterator[Screen]:
    tools = require("llama.vim")
    file = folder / "m.py"
    file.write_text(SOURCE, "utf-8")
    asked = {
        "vim": "vim", "plugin": tools.found["llama.vim"]["path"], "endpoint": f"{url}/infill", "key": key,
        "home": str(folder), "file": str(file),
    }  # fmt: skip
    command = [str(tools.python), str(DRIVERS / "vim_screen.py"), json.dumps(asked)]
    with talk(command) as lines:
        screen = Screen(lines)
        screen.do("begin", text="print(multiply(2")
        yield screen


@pytest.mark.cell("llama.vim", "plain")
def test_completion_is_shown_and_can_be_accepted(live: Live, tmp_path: Path) -> None:
    with vim(live.url, tmp_path) as screen:
        screen.do("keys", keys=TYPED)
        found = screen.do("ghost")
        assert found["ghost"].strip()
        # The plugin shows the timings of the response: tokens, milliseconds, tokens per second.
        assert re.search(r"p: \d+ \(\d+\.\d\d ms, \d+\.\d\d t/s\)", found["info"])
        assert re.search(r"g: \d+ \(\d+\.\d\d ms, \d+\.\d\d t/s\)", found["info"])
        screen.do("keys", keys="\t\x1b:w\r")
        screen.do("text", text="written")
    written = (tmp_path / "m.py").read_text("utf-8").splitlines()
    first = found["ghost"].splitlines()[0].strip()
    assert any(line.startswith("    return a") and line.endswith(first) for line in written)


@pytest.mark.cell("llama.vim", "FIM")
def test_prefix_and_suffix_are_sent_to_the_model(tmp_path: Path) -> None:
    with running(FakeDecoder(n_ctx=1024, n_batch=256)) as server:
        with vim(f"http://127.0.0.1:{server.port}", tmp_path) as screen:
            screen.do("keys", keys=TYPED)
            assert screen.do("ghost")["ghost"].strip().isalpha()  # the fake decoder's
        before, after = around_the_cursor(server.runner.seen[0].prompt)
    assert before == "def add(a, b):\n    return a + b\n\n\ndef multiply(a, b):\n    return a"
    assert after.strip() == "print(multiply(2, add(1, 2)))"


@pytest.mark.cell("llama.vim", "cancel")
def test_leaving_vim_cancels_its_request(tmp_path: Path) -> None:
    """Leave Vim, which ends its curl, while the decoder waits at a gate; a keystroke does not end a request."""
    gate = threading.Semaphore(0)
    with (
        running(FakeDecoder(gate=gate, n_ctx=1024, n_batch=256)) as server,
        vim(f"http://127.0.0.1:{server.port}", tmp_path) as screen,
    ):
        screen.do("keys", keys=TYPED)
        wait(server.runner.submitted)
        gate.release(2)
        screen.quit()
        wait(server.runner.cancelled)


@pytest.mark.cell("llama.vim", "auth")
def test_wrong_key_shows_neither_completion_nor_error(guarded: Live, tmp_path: Path) -> None:
    for key, status in ((KEY, 200), (WRONG_KEY, 401)):
        n = len(guarded.log)
        with vim(guarded.url, tmp_path, key) as screen:
            screen.do("keys", keys=TYPED)
            wait_until(lambda n=n, s=status: said(guarded.log[n:], s))  # type: ignore[misc]
            if status == 200:
                assert screen.do("ghost")["ghost"].strip()
            else:  # the plugin shows neither a completion nor an error
                screen.do("keys", keys="\x1b:echo 'still' 'here'\r")
                screen.do("text", text="still here")
                assert screen.do("colours")["ghost"] == ""


def said(log: list[str], status: int) -> bool:
    return any(f"POST /infill {status}" in line for line in log)
