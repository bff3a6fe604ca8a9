"""The only module that prints. Results go to stdout, everything else to stderr.

Quiet in a pipe: progress is drawn only where stderr is a terminal; `--json` puts exactly one JSON
object on stdout.
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
from turbopilot.base.sizes import size as size

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def _shown(text: str) -> str:
    """Text as a terminal may see it: what comes from a file may hold markup, or codes that drive the terminal."""
    safe = (c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    return escape(text if text.isprintable() else "".join(safe))


def info(message: str) -> None:
    """A line about what is happening, on stderr."""
    err.print(_shown(message))


def result(message: str) -> None:
    """A line of result, on stdout."""
    out.print(_shown(message))


def error(message: str, hint: str = "") -> None:
    """An error with what to do about it, on stderr."""
    err.print(f"[bold red]error:[/] {_shown(message)}")
    if hint:
        err.print(f"[bold]hint:[/] {_shown(hint)}")


def emit_json(value: Mapping[str, Any]) -> None:
    """The one JSON object of a `--json` run."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[int] | None = None,
) -> None:
    """A table on stdout, under its title.

    Args:
        title: a line above it; "" for none.
        columns: their names.
        rows: cells, as text.
        numbers: indices of the columns to align to the right; all but the first where not given.
    """
    from rich.table import Table

    right = range(1, len(columns)) if numbers is None else numbers
    t = Table()
    for i, column in enumerate(columns):
        # Folded: a cell that is cut off in a pipe is lost.
        t.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        t.add_row(*(_shown(cell) for cell in row))
    if title:
        out.print(_shown(title))
    Console(highlight=False, width=None if out.is_terminal else 120).print(t)


@contextmanager
def progress(verb: str) -> Iterator[seam.Progress]:
    """A progress bar on stderr while the body runs; nothing where stderr is not a terminal."""
    if not err.is_terminal:
        yield seam.silent
        return
    # Here, as every verb imports this module and --help should not wait for it.
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("[bold]{task.fields[verb]}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, verb=verb)

        def update(done: int, total: int, what: str = "", /) -> None:
            bar.update(task, completed=done, total=total, description=escape(what))

        yield update


@contextmanager
def transfer() -> Iterator[seam.Progress]:
    """Two bars on stderr while the body downloads: one of the file, one of all (told of without a name).

    Nothing where stderr is not a terminal.
    """
    if not err.is_terminal:
        yield seam.silent
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as bars:
        rows = (bars.add_task("all", total=None), bars.add_task("", total=None))
        shown = ["", ""]

        def update(done: int, total: int, what: str = "", /) -> None:
            row = int(bool(what))
            if shown[row] != (name := what or "all"):
                shown[row] = name
                # What is here already was not fetched now, and counts for no speed.
                bars.reset(rows[row], total=total, completed=done, description=escape(name))
            bars.update(rows[row], completed=done)

        yield update


REPORTER = seam.Reporter(info, progress, transfer)
