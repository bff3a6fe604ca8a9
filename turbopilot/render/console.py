"""Printing: results to stdout, everything else to stderr. No other module prints.

Progress is shown only on a terminal; `--json` prints exactly one JSON object to stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from rich.console import Console
from rich.markup import escape

from turbopilot.base import progress as seam
from turbopilot.render.table import TableColumns

# With NO_COLOR, rich itself drops colours, but not bold.
_COLOURS: Final[Literal["auto"] | None] = None if os.environ.get("NO_COLOR") else "auto"


class MessageConsole(Console):
    """Console for messages. If their reader ends, as in `2>&1 | head`, they are dropped, and the program continues."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; rich would end the program."""
        self.quiet = True


out = Console(highlight=False, soft_wrap=True, emoji=False, color_system=_COLOURS)
err = MessageConsole(
    stderr=True, highlight=False, soft_wrap=True, emoji=False, color_system=_COLOURS
)


def printable(text: str, kept: str = "") -> str:
    """Escape control characters except those in `kept`, as texts from a file may contain terminal codes."""
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def _shown(text: str) -> str:
    """Escape Rich markup and terminal control codes, which texts from a file may contain."""
    return escape(printable(text, kept="\n\t"))


def info(message: str) -> None:
    """Print a message to stderr."""
    err.print(_shown(message))


def result(message: str) -> None:
    """Print a line of the result to stdout."""
    out.print(_shown(message))


@contextmanager
def exact_text() -> Iterator[Callable[[str], None]]:
    """Yield a function that prints a piece of text to stdout at once: in a pipe exactly, in UTF-8.

    On a terminal, control characters are escaped, and a line break follows the last piece, also if the body fails.
    """
    is_terminal = sys.stdout.isatty()
    encoding = sys.stdout.encoding if is_terminal else "utf-8"
    last = "\n"

    def show(piece: str) -> None:
        nonlocal last
        last = piece[-1:] or last
        shown = printable(piece, kept="\n\t") if is_terminal else piece
        sys.stdout.buffer.write(shown.encode(encoding, "backslashreplace"))
        sys.stdout.buffer.flush()

    try:
        yield show
    finally:
        if is_terminal and last != "\n":
            show("\n")


def error(message: str, hint: str = "") -> None:
    """Print an error and its hint to stderr."""
    err.print(f"[bold red]error:[/] {_shown(message)}")
    if hint:
        err.print(f"[bold]hint:[/] {_shown(hint)}")


def emit_json(value: Mapping[str, Any]) -> None:
    """Print the JSON object of a `--json` run to stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def table(
    title: str,
    columns: TableColumns,
    rows: Sequence[Sequence[str]],
    legend: Mapping[str, str] | None = None,
) -> None:
    """Print a table to stdout as plain columns, as wide as the terminal, or 80 columns if the width is unknown.

    COLUMNS sets another width.

    Args:
        title: line above the table; "" for none.
        columns: headings, and what to leave out if the table is too wide.
        rows: cells.
        legend: explanations by heading, or by several headings with commas; those of columns left out are not printed.
    """
    width = shutil.get_terminal_size().columns
    cells = [[printable(cell) for cell in row] for row in rows]
    (head, *lines), left_out = columns.lay_out(cells, width)
    if title:
        text(title)
    out.print(f"[bold]{escape(head)}[/]")
    for line in lines:
        out.print(escape(line))
    notes = [f"not shown in {width} columns: {', '.join(left_out)} (--json has all)"]
    notes = notes if left_out else []
    for names, meaning in (legend or {}).items():
        if set(names.split(", ")) - set(left_out):
            notes.append(f"{names}: {meaning}")
    if notes:
        text("", *notes)


def text(*lines: str) -> None:
    """Print lines to stdout, each wrapped between words to the width of the tables."""
    width = shutil.get_terminal_size().columns
    for line in lines:
        wrapped = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
        result("\n".join(wrapped))


@contextmanager
def progress(verb: str) -> Iterator[seam.Progress]:
    """Show a progress bar on stderr while the body runs, if stderr is a terminal."""
    if not err.is_terminal:
        yield seam.silent
        return
    import rich.progress as p  # imported here to keep --help fast

    columns = (
        p.TextColumn("[bold]{task.fields[verb]}"), p.BarColumn(), p.TextColumn("{task.percentage:>3.0f}%"),
        p.TimeElapsedColumn(), p.TimeRemainingColumn(), p.TextColumn("{task.description}"),
    )  # fmt: skip
    with p.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, verb=verb)

        def update(done: int, total: int, what: str = "", /) -> None:
            bar.update(task, completed=done, total=total, description=escape(what))

        yield update


@contextmanager
def transfer() -> Iterator[seam.Progress]:
    """Show two download bars on stderr, if that is a terminal: one for all files and one for the current file.

    Updates without a name count for all files.
    """
    if not err.is_terminal:
        yield seam.silent
        return
    import rich.progress as p

    columns = (
        p.TextColumn("{task.description}"), p.BarColumn(), p.DownloadColumn(), p.TransferSpeedColumn(),
        p.TimeRemainingColumn(),
    )  # fmt: skip
    with p.Progress(*columns, console=err, transient=True) as bars:
        rows = (bars.add_task("all", total=None), bars.add_task("", total=None))
        shown = ["", ""]

        def update(done: int, total: int, what: str = "", /) -> None:
            row = int(bool(what))
            if shown[row] != (name := what or "all"):
                shown[row] = name
                # Reset, so that bytes from an earlier download do not count for the speed.
                bars.reset(rows[row], total=total, completed=done, description=escape(name))
            bars.update(rows[row], completed=done)

        yield update


REPORTER = seam.Reporter(info, progress, transfer)
