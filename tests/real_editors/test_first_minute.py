"""The first minute of a newcomer: the quickstart in VS Code's terminal, then ghost text.

Takes the pictures of docs/editors.md. `TURBOPILOT_PICTURES` is their folder, by default that of the test's other files.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.clients.live import ROOT
from tests.real_editors.documents import Document
from tests.real_editors.installed import FAUXPILOT
from tests.real_editors.window import settings_for, window

pytestmark = pytest.mark.editors

STACK = Document(
    """\
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
""",
    """

    def __len__(self):
        return len(self.items)
""",
)
TYPED = "        return self."
TOP = 320  # pixels, which show the tabs and the document
SCREEN = ".xterm-rows"
TERMINAL = {
    # Rendered as elements of the page, so that their text can be read.
    "terminal.integrated.gpuAcceleration": "off",
    "terminal.integrated.defaultProfile.linux": "bash",
    "terminal.integrated.profiles.linux": {"bash": {"path": "bash", "args": ["--norc"]}},
    "terminal.integrated.env.linux": {"PS1": "$ "},
    "terminal.integrated.defaultLocation": "editor",
    "terminal.integrated.fontSize": 12,
    "terminal.integrated.tabs.description": "",
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_quickstart_leads_to_ghost_text(tmp_path: Path) -> None:
    folder = os.environ.get("TURBOPILOT_PICTURES")
    pictures = ROOT / folder if folder else tmp_path
    port = free_port()
    name = STACK.write(tmp_path).rename(tmp_path / "project/stack.py").name
    (tmp_path / "turbopilot").symlink_to(ROOT)
    # So that the quickstart converts and verifies, also if it did before.
    (ROOT / "build/quickstart/proof.txt").unlink(missing_ok=True)
    settings = {**TERMINAL, **settings_for(FAUXPILOT, f"http://127.0.0.1:{port}")}
    with window(FAUXPILOT, tmp_path, settings, name, STACK.line) as w:
        w.begin()
        w.press("Control+b")  # hides the side bar
        w.press("Control+Shift+Backquote")
        w.do("text", selector=SCREEN, text="$ ")
        w.type(f"cd ~/turbopilot && scripts/quickstart --port {port}")
        w.press("Enter")
        w.do("text", selector=SCREEN, text="ready after")
        w.picture(pictures / "vscode-ready.png")
        w.press("Shift+Home")
        w.do("text", selector=SCREEN, text="$ cd ~/turbopilot")
        w.picture(pictures / "vscode-quickstart.png")
        w.press("Control+Shift+Tab")
        w.do("text", selector=".monaco-editor.focused", text="")
        w.type(TYPED)
        ghost = w.ghost()
        w.picture(pictures / "vscode-ghost-text.png", TOP)
        w.press("Tab")
        written = w.save(name)
        w.press("Escape")  # hides the next completion
        w.picture(pictures / "vscode-accepted.png", TOP)
    assert written == STACK.before + TYPED + ghost + STACK.after
