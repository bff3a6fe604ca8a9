#!/usr/bin/env python3
"""Record the terminal session of the README: run real commands in a terminal of 80 columns, and write it as an SVG.

    python scripts/record_terminal.py            # docs/img/session.svg
    python scripts/record_terminal.py --out X.svg

The commands are run in an empty folder on the bundled model; whatever they print is in the picture.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from lib.terminal_picture import terminal_svg
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 80, 50
PORT = 18080
SERVER = f"turbopilot serve demo-q8_0.gguf --port {PORT}"
COMMANDS = (
    "turbopilot convert demo -o demo-f16.gguf",
    "turbopilot quantize demo-f16.gguf Q8_0 -o demo-q8_0.gguf",
    "turbopilot verify demo-q8_0.gguf --against demo | tail -n 4",
)
REQUEST = f"""\
curl -s localhost:{PORT}/v1/completions -d '{{"single_line": true,
    "prompt": "result = []\\nfor item in items:\\n    result."}}' |
    grep -o '"text":"[^"]*"'"""
_ESCAPE = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;?]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+")


def run(command: str, folder: Path) -> str:
    """Run a command in a terminal of its own, and return what it wrote, with its escape sequences.

    Raises:
        SystemExit: it failed.
    """
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=_environment(size), stdin=theirs, stdout=theirs, stderr=theirs
    )  # fmt: skip
    os.close(theirs)
    output = io.BytesIO()
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # Linux reports the end of the other side as an error
            break
        if not data:
            break
        output.write(data)
    os.close(ours)
    text = output.getvalue().decode("utf-8", "replace")
    if process.wait():
        raise SystemExit(f"{command}\n{text}")
    return text


def _environment(more: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **more}


def last_screen(output: str) -> str:
    r"""Return the lines that remain on the terminal, with their colours.

    Progress displays clear lines and move up; the only other sequences that are kept are colours.

    >>> last_screen("10 %\r\x1b[2K100 %\n")
    '100 %\n'
    """
    lines, row = [""], 0
    for found in _ESCAPE.finditer(output):
        part, letter = found[0], found[2]
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif letter == "A":
            row = max(0, row - int(found[1] or 1))
        elif letter == "K":
            lines[row] = ""
        elif part != "\r" and (not part.startswith("\x1b") or part.endswith("m")):
            lines[row] += part
    return "\n".join(lines)


def record(out: Path) -> None:
    """Run the session, and write its picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)

    def show(command: str, output: str) -> None:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(last_screen(output).strip("\n")))
        console.print()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in COMMANDS:
            show(command, run(command, folder))
        server = subprocess.Popen(
            SERVER.split(), cwd=folder, env=_environment({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{PORT}/health")
            show(f"{SERVER.partition(' --')[0]} &\n$ {REQUEST}", run(REQUEST, folder))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(terminal_svg(console, "TurboPilot"), "utf-8")


def _wait(url: str) -> None:
    """Wait until a server answers.

    Raises:
        SystemExit: it does not within a minute.
    """
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def main() -> None:
    """Record the session."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/img/session.svg")
    if shutil.which("curl") is None:
        raise SystemExit("curl is needed")
    record(parser.parse_args().out)


if __name__ == "__main__":
    main()
