"""Driver that runs Vim in a pseudo-terminal and renders its screen. Needs the venv of scripts/test_clients.

    python vim_screen.py '{"vim": …, "plugin": …, "endpoint": …, "key": …, "home": …, "file": …}'

Commands are lines on standard input; each is answered with a line on standard output:
    {"do": "keys", "keys": "…"}    types the keys
    {"do": "begin", "text": "…"}   waits until the screen shows the text, and confirms an earlier message of the plugin
    {"do": "text", "text": "…"}    waits until the screen shows the text
    {"do": "ghost"}                waits for a completion; returns it and the plugin's information about it
    {"do": "colours"}              returns the same without waiting
    {"do": "quit"}                 ends Vim without saving, like the end of the input
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte

ROWS, COLUMNS = 30, 200
# llama.vim's colors of the completion (202) and of the information about it (119), as RGB.
GHOST, INFO = "ff5f00", "87ff5f"
PATIENCE = 60.0
VIMRC = """
set nocompatible nomore noswapfile viminfo= shortmess+=I
let g:llama_config = {config}
set runtimepath^={plugin}
filetype plugin indent off
"""


class Screen(pyte.Screen):  # type: ignore[misc]
    """Screen that ignores Vim's keyboard settings (CSI > … m), which pyte takes for colors and fails on."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Vim:
    """Vim process and its screen; the module's docstring describes `asked`."""

    def __init__(self, asked: dict[str, str]) -> None:
        home = Path(asked["home"])
        config = {
            "endpoint_fim": asked["endpoint"], "api_key": asked["key"], "n_predict": 32,
            "t_max_predict_ms": 5000, "ring_n_chunks": 0,
        }  # fmt: skip
        vimrc = home / "vimrc"
        vimrc.write_text(VIMRC.format(config=json.dumps(config), plugin=asked["plugin"]), "utf-8")
        self._screen = Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        environ = {
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            command = [asked["vim"], "-N", "-u", str(vimrc), "-i", "NONE", asked["file"]]
            os.execvpe(command[0], command, environ)
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def keys(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def until(self, done: Callable[[], bool]) -> None:
        """Render Vim's output until `done` returns true; raise TimeoutError with the screen's text if it never does."""
        end = time.monotonic() + PATIENCE
        while not done():
            left = end - time.monotonic()
            if left <= 0 or not self._draw(left):
                raise TimeoutError("\n".join(line.rstrip() for line in self._screen.display))

    def _draw(self, timeout: float) -> bool:
        if not select.select([self._terminal], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # raised on Linux if the other end is closed
            return False
        self._stream.feed(data)
        return bool(data)

    def shows(self, text: str) -> bool:
        return text in "\n".join(self._screen.display)

    def coloured(self, colour: str) -> str:
        """Return the characters of a color, line by line."""
        lines = []
        for y in range(ROWS):
            row = self._screen.buffer[y]
            line = "".join(row[x].data for x in range(COLUMNS) if row[x].fg == colour)
            if line:
                lines.append(line.rstrip())
        return "\n".join(lines)

    def quit(self) -> None:
        """Leave Vim from any mode."""
        try:
            self.keys("\x1c\x0e:qall!\r")  # CTRL-\\ CTRL-N switches to normal mode from any mode
            while self._draw(PATIENCE):
                pass
        except OSError:
            pass
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


def answer(vim: Vim, command: dict[str, Any]) -> dict[str, str]:
    match command["do"]:
        case "keys":
            vim.keys(command["keys"])
        case "begin":  # llama.vim warns about versions before 9.1, but works with 9.0.1848
            prompt = "Press ENTER"
            vim.until(lambda: vim.shows(command["text"]) or vim.shows(prompt))
            if vim.shows(prompt):
                vim.keys("\r")
            vim.until(lambda: vim.shows(command["text"]) and not vim.shows(prompt))
        case "text":
            vim.until(lambda: vim.shows(command["text"]))
        case "ghost":
            vim.until(lambda: bool(vim.coloured(GHOST).strip() and vim.coloured(INFO).strip()))
            return {"ghost": vim.coloured(GHOST), "info": vim.coloured(INFO)}
        case "colours":
            return {"ghost": vim.coloured(GHOST), "info": vim.coloured(INFO)}
        case other:
            raise ValueError(other)
    return {}


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    vim = Vim(json.loads(sys.argv[1]))
    try:
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "quit":
                break
            try:
                found = answer(vim, command)
            except TimeoutError as e:
                found = {"screen": str(e)}
            say(found)
    finally:
        vim.quit()
        say({"ended": True})
        for _ in sys.stdin:
            pass


if __name__ == "__main__":
    main()
