"""Screen of a terminal that is drawn again until the user leaves it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, NoReturn

from rich.console import Group
from rich.live import Live
from rich.text import Text

from turbopilot.render import console

_REDRAW_SECONDS: Final = 0.5
_QUIT: Final = frozenset("qQ\x03\x04")  # Ctrl-C and Ctrl-D, if they arrive as characters


class ScreenLine(NamedTuple):
    """A line and its style in rich's words, such as "bold"."""

    text: str
    style: str = ""


# Receives columns and rows of the terminal.
Draw = Callable[[int, int], Sequence[ScreenLine]]


def can_draw() -> bool:
    """Return whether stdout is a terminal with a cursor that can be moved."""
    return sys.stdout.isatty() and not console.out.is_dumb_terminal


def print_once(lines: Sequence[ScreenLine]) -> None:
    """Print lines to stdout."""
    for text, style in lines:
        console.out.print(Text(text, style))


def watch(draw: Draw) -> None:
    """Draw the whole terminal twice a second and after each key, until q, Ctrl-C, SIGTERM or the end of stdin.

    The terminal shows what it showed before when this function returns.
    """

    def frame() -> Group:
        width, height = console.out.size
        lines = draw(width, height)[:height]
        return Group(*(Text(t, style, no_wrap=True, overflow="crop") for t, style in lines))

    try:
        with (
            _ended_by_signal(),
            _keys() as key,
            Live(frame(), console=console.out, screen=True, auto_refresh=False) as live,
        ):
            while (typed := key(_REDRAW_SECONDS)) is not None and typed not in _QUIT:
                live.update(frame(), refresh=True)
    except KeyboardInterrupt:
        return


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGTERM in the block, so that the terminal is restored."""

    def leave(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# Waits for at most that many seconds; returns the key that was typed, "" if none was, or None at the end of the input.
ReadKey = Callable[[float], str | None]


@contextmanager
def _keys() -> Iterator[ReadKey]:
    """Yield a function that waits for a key without showing it. It returns no keys if stdin is not a terminal."""
    if not sys.stdin.isatty():
        yield _no_key
    elif os.name == "nt":
        yield _key_of_windows
    else:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        tty.setcbreak(descriptor)
        try:
            yield _key_of_posix
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key_of_posix(seconds: float) -> str | None:
    import select

    descriptor = sys.stdin.fileno()
    if not select.select([descriptor], [], [], seconds)[0]:
        return ""
    try:
        typed = os.read(descriptor, 1)
    except OSError:  # the terminal is gone
        return None
    return typed.decode("latin-1") if typed else None


def _key_of_windows(seconds: float) -> str:
    import msvcrt

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if msvcrt.kbhit():  # type: ignore[attr-defined, unused-ignore]
            return str(msvcrt.getwch())  # type: ignore[attr-defined, unused-ignore]
        time.sleep(0.05)
    return ""
