"""Output on a terminal: width, bold headings, and NO_COLOR."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")


def on_terminal(width: int, *arguments: str, **environment: str) -> str:
    """Return the output of a command whose stdout and stderr are a terminal of this width."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    }
    with subprocess.Popen(
        [sys.executable, "-m", "turbopilot", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**kept, "TERM": "xterm", **environment},
    ) as process:  # fmt: skip
        os.close(theirs)
        output = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            output += piece
    os.close(ours)
    assert process.returncode in (0, 2)
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("width", [60, 80, 132])
def test_table_is_as_wide_as_the_terminal(width: int) -> None:
    out = on_terminal(width, "models")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(map(len, plain.splitlines())) <= width
    assert "\nstablecode-instruct-alpha-3b  " in plain
    assert ("licence" in plain.splitlines()[0]) is (width == 132)
    assert re.match(r"\x1b\[1mmodel .*\x1b\[0m\n", out), "the headings are bold"


@pytest.mark.parametrize("arguments", [["editors", "vim"], ["serve", "--prot"]])
def test_no_color_means_no_terminal_codes(arguments: list[str]) -> None:
    assert "\x1b[1" in on_terminal(80, *arguments)
    assert "\x1b" not in on_terminal(80, *arguments, NO_COLOR="1")
