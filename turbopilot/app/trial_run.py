"""Runs files as they will be served, and compares them with the one that they were made of."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.app.fit_report import Row
from turbopilot.base.errors import NotEnoughDisk
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.bench import Reference, Setup


class Judge:
    """A context manager: keeps the source's logits in a folder of its own while it lives.

    Args:
        source: the file to compare with.
        setup: how files are run.
        kl: whether to compare at all, or to look at memory alone.
    """

    def __init__(self, source: Path, setup: Setup, *, kl: bool) -> None:
        self._source, self._setup, self._kl = source, setup, kl
        self._folder = tempfile.TemporaryDirectory(prefix="turbopilot-fit-")
        self._reference: Reference | None = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def memory(self, path: Path, row: Row) -> Row:
        """The row with what the file takes.

        Raises:
            TurboPilotError: see `turbopilot.bench.measure`.
        """
        from turbopilot.bench import measure

        with console.progress(f"measure {row.name}") as progress:
            return replace(row, memory=measure(path, self._setup, progress=progress).memory)

    def divergence(self, path: Path, row: Row) -> Row:
        """The row with what the file loses; as it is where that is not asked, or the logits find no room on the disk.

        Raises:
            TurboPilotError: see `turbopilot.bench.divergence`.
        """
        from turbopilot.bench import divergence

        if not self._kl:
            return row
        try:
            reference = self._logits()
        except NotEnoughDisk as e:
            console.info(f"what is lost is not measured: {e.message}")
            self._kl = False
            return row
        with console.progress(f"compare {row.name}") as progress:
            far = divergence(path, reference, self._setup, progress=progress)
        return replace(row, divergence=far)

    def _logits(self) -> Reference:
        if self._reference is None:
            from turbopilot.bench import keep_reference
            from turbopilot.corpus import evaluation_text

            with console.progress("reference") as progress:
                self._reference = keep_reference(
                    self._source,
                    evaluation_text(),
                    Path(self._folder.name) / "logits",
                    replace(self._setup, cache_type="F16"),
                    progress=progress,
                )
        return self._reference
