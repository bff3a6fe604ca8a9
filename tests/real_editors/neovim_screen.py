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

import fcntl
import json
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable

import pyte

ROWS, COLUMNS = 30, 120
GHOST = "ff5f00"  # colour 202 of the terminal, which the tests set for ghost text
PATIENCE = 90.0


class Screen(pyte.Screen):  # type: ignore[misc]
    """Screen that ignores Neovim's keyboard settings (CSI > … m), which pyte takes for colours and fails on."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class Terminal:
    """Pseudo-terminal of a process."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._screen = Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.execvpe(command[0], command, {**clean, **environ, "TERM": "xterm-256color"})
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def keys(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def until(self, done: Callable[[], object], patience: float = PATIENCE) -> None:
        """Render the output until `done` returns true; raise TimeoutError with the screen's text if it never does."""
        end = time.monotonic() + patience
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
        return text in "\n".join(self._lines(lambda colour: colour != GHOST))

    def ghost(self) -> str:
        """Return the ghost text, without its empty lines."""
        lines = self._lines(lambda colour: colour == GHOST)
        return "\n".join(line.rstrip() for line in lines if line.strip())

    def _lines(self, wanted: Callable[[str], bool]) -> list[str]:
        rows = [[self._screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS)]
        return ["".join(c.data for c in row if wanted(c.fg)) for row in rows]

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


def answer(terminal: Terminal, command: dict[str, str]) -> str:
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
    terminal = Terminal(**json.loads(sys.argv[1]))
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
