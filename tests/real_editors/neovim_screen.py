"""Driver that runs Neovim in a pseudo-terminal and renders its screen. Needs the packages of scripts/test_editors.

    python neovim_screen.py '{"command": […], "environ": {…}}'

Commands are lines on standard input; each is answered with a line on standard output, {"failed": screen} on failure:
    {"do": "keys", "keys": "…"}       types the keys
    {"do": "text", "text": "…"}       waits until the screen shows the text in another colour than ghost text
    {"do": "ghost", "seconds": "5"}   waits for text in the colour of ghost text, and returns it
    {"do": "look"}                    returns the same without waiting
The end of the input ends Neovim without saving.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a run as a script

from tests.support.pseudo_terminal import PseudoTerminal

ROWS, COLUMNS = 30, 120
GHOST = "ff5f00"  # colour 202 of the terminal, which the tests set for ghost text
PATIENCE = 90.0


class Neovim(PseudoTerminal):
    """Neovim and its screen."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        super().__init__(command, environ, rows=ROWS, columns=COLUMNS, patience=PATIENCE)

    def shows(self, text: str) -> bool:
        return text in "\n".join(self.lines(lambda colour: colour != GHOST))

    def ghost(self) -> str:
        """Return the ghost text, without its empty lines."""
        lines = self.lines(lambda colour: colour == GHOST)
        return "\n".join(line.rstrip() for line in lines if line.strip())

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def answer(terminal: Neovim, command: dict[str, str]) -> str:
    match command["do"]:
        case "keys":
            terminal.keys(command["keys"])
        case "text":
            terminal.until(lambda: terminal.shows(command["text"]))
        case "ghost":
            terminal.until(terminal.ghost, float(command.get("seconds", PATIENCE)))
            return terminal.ghost()
        case "look":
            return terminal.ghost()
        case other:
            raise ValueError(other)
    return ""


def main() -> None:
    terminal = Neovim(**json.loads(sys.argv[1]))
    try:
        for line in sys.stdin:
            try:
                found = {"found": answer(terminal, json.loads(line))}
            except TimeoutError as e:
                found = {"failed": str(e)}
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()
    finally:
        terminal.end()


if __name__ == "__main__":
    main()
