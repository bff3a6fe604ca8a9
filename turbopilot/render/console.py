"""Printing: results to stdout, everything else to stderr. No other module prints.

Progress is shown only on a terminal; `--json` prints exactly one JSON object to stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from turbopilot.base import progress as seam


class MessageConsole(Console):
    """Console for messages. If their reader ends, as in `2>&1 | head`, they are dropped, and the program continues."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; rich would end the program."""
        self.quiet = True


out = Console(highlight=False, soft_wrap=True)
err = MessageConsole(stderr=True, highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Escape Rich markup and terminal control codes, which texts from a file may contain."""
    safe = (c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return escape("".join(safe))


def info(message: str) -> None:
    """Print a message to stderr."""
    err.print(_shown(message))


def result(message: str) -> None:
    """Print a line of the result to stdout."""
    out.print(_shown(message))


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
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] | None = None,
) -> None:
    """Print a table to stdout.

    Args:
        title: line above the table; "" for none.
        columns: headings.
        rows: cells.
        numbers: indices of the columns to align to the right; by default all but the first.
    """
    from rich.table import Table

    right = range(1, len(columns)) if numbers is None else numbers
    t = Table()
    for i, column in enumerate(columns):
        # Wrap long cells: in a pipe, text that is cut off would be lost.
        t.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        t.add_row(*(_shown(cell) for cell in row))
    if title:
        out.print(_shown(title))
    Console(highlight=False, width=None if out.is_terminal else 120).print(t)


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
