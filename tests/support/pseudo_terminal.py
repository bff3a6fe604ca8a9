"""Program in a pseudo-terminal whose screen is rendered, for the drivers of Vim and Neovim. Needs pyte."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable

import pyte


class _Screen(pyte.Screen):  # type: ignore[misc]
    """Screen that ignores Vim's keyboard settings (CSI > … m), which pyte takes for colors and fails on."""

    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attributes)


class PseudoTerminal:
    """Running program and its screen.

    Args:
        command: the program and its arguments.
        environ: environment variables in addition to those of this process; proxies are left out.
        rows, columns: size of the screen.
        patience: seconds that `until` waits by default.
    """

    def __init__(
        self,
        command: list[str],
        environ: dict[str, str],
        *,
        rows: int,
        columns: int,
        patience: float,
    ) -> None:
        self.rows, self.columns, self._patience = rows, columns, patience
        self.screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**clean, **environ, "TERM": "xterm-256color"})
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def keys(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def until(self, done: Callable[[], object], patience: float | None = None) -> None:
        """Render the output until `done` returns true; raise TimeoutError with the screen's text if it never does."""
        end = time.monotonic() + (self._patience if patience is None else patience)
        while not done():
            left = end - time.monotonic()
            if left <= 0 or not self.draw(left):
                raise TimeoutError("\n".join(line.rstrip() for line in self.screen.display))

    def draw(self, timeout: float) -> bool:
        """Render output that comes within `timeout` seconds; return whether there was any."""
        if not select.select([self.terminal], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # raised on Linux if the other end is closed
            return False
        self._stream.feed(data)
        return bool(data)

    def lines(self, wanted: Callable[[str], bool]) -> list[str]:
        """Return the characters of each row whose colors are wanted."""
        rows = [[self.screen.buffer[y][x] for x in range(self.columns)] for y in range(self.rows)]
        return ["".join(c.data for c in row if wanted(c.fg)) for row in rows]
