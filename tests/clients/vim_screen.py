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

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a run as a script

from tests.support.pseudo_terminal import PseudoTerminal

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


class Vim(PseudoTerminal):
    """Vim process and its screen; the module's docstring describes `asked`."""

    def __init__(self, asked: dict[str, str]) -> None:
        home = Path(asked["home"])
        config = {
            "endpoint_fim": asked["endpoint"], "api_key": asked["key"], "n_predict": 32,
            "t_max_predict_ms": 5000, "ring_n_chunks": 0,
        }  # fmt: skip
        vimrc = home / "vimrc"
        vimrc.write_text(VIMRC.format(config=json.dumps(config), plugin=asked["plugin"]), "utf-8")
        command = [asked["vim"], "-N", "-u", str(vimrc), "-i", "NONE", asked["file"]]
        environ = {"HOME": str(home), "LANG": "C.UTF-8"}
        super().__init__(command, environ, rows=ROWS, columns=COLUMNS, patience=PATIENCE)

    def shows(self, text: str) -> bool:
        return text in "\n".join(self.screen.display)

    def coloured(self, colour: str) -> str:
        """Return the characters of a color, line by line."""
        lines = self.lines(lambda fg: fg == colour)
        return "\n".join(line.rstrip() for line in lines if line)

    def quit(self) -> None:
        """Leave Vim from any mode."""
        try:
            self.keys("\x1c\x0e:qall!\r")  # CTRL-\\ CTRL-N switches to normal mode from any mode
            while self.draw(PATIENCE):
                pass
        except OSError:
            pass
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


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
