"""Vim in a pseudo-terminal whose screen is rendered, driven by lines of JSON. Run by the venv of scripts/test_clients.

    python vim_screen.py '{"vim": …, "plugin": …, "endpoint": …, "key": …, "home": …, "file": …}'

Commands on standard input, an answer a line on standard output:
    {"do": "keys", "keys": "…"}    types it
    {"do": "begin", "text": "…"}   waits until the screen shows it, and confirms what the plugin says before
    {"do": "text", "text": "…"}    waits until the screen shows it
    {"do": "ghost"}                waits until a suggestion is shown; tells it, and what the plugin says of it
    {"do": "quit"}                 ends Vim without writing; so does the end of the input
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
# llama.vim's own colours of the suggestion (202) and of what it says of it (119), as a terminal shows them.
GHOST, INFO = "ff5f00", "87ff5f"
PATIENCE = 60.0
VIMRC = """
set nocompatible nomore noswapfile viminfo= shortmess+=I
let g:llama_config = {config}
set runtimepath^={plugin}
filetype plugin indent off
"""


class Screen(pyte.Screen):  # type: ignore[misc]
    """pyte's, which takes Vim's settings of the keyboard (CSI > … m) for colours, and fails on them."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Vim:
    """An editor and its screen; `asked` is described above."""

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
        """Show what Vim draws until the screen is as wanted; say what it shows instead."""
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
        except OSError:  # Linux: the other end is closed
            return False
        self._stream.feed(data)
        return bool(data)

    def shows(self, text: str) -> bool:
        return text in "\n".join(self._screen.display)

    def coloured(self, colour: str) -> str:
        """The characters of a colour, line by line."""
        lines = []
        for y in range(ROWS):
            row = self._screen.buffer[y]
            line = "".join(row[x].data for x in range(COLUMNS) if row[x].fg == colour)
            if line:
                lines.append(line.rstrip())
        return "\n".join(lines)

    def quit(self) -> None:
        """Leave, whatever mode it is in."""
        try:
            self.keys("\x1c\x0e:qall!\r")  # CTRL-\\ CTRL-N is normal mode, from anywhere
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
        case "begin":  # llama.vim warns of any Vim before 9.1, and works with 9.0.1848
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
