"""Run files as they will be served, and compare them with the one that they were made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from turbopilot.app.fit_report import FitRow
from turbopilot.base.errors import NotEnoughDisk
from turbopilot.base.progress import Reporter
from turbopilot.bench import Reference, Setup, divergence, keep_reference, measure
from turbopilot.corpus import evaluation_text


@dataclass(slots=True)
class TrialRuns:
    """Trial runs of files made of one source.

    Attributes:
        source: the file to compare with.
        setup: how files are run.
        folder: an empty one, for the source's logits.
        reporter: told of each step.
        compares: whether to measure divergence, and not memory alone.
    """

    source: Path
    setup: Setup
    folder: Path
    reporter: Reporter
    compares: bool
    _reference: Reference | None = None

    def memory(self, path: Path, row: FitRow) -> FitRow:
        """The row with what the file takes.

        Raises:
            TurboPilotError: see `turbopilot.bench.measure`.
        """
        with self.reporter.progress(f"measure {row.name}") as progress:
            return replace(row, memory=measure(path, self.setup, progress=progress).memory)

    def divergence(self, path: Path, row: FitRow) -> FitRow:
        """The row with what the file loses; unchanged where the disk has no room for the source's logits.

        Raises:
            TurboPilotError: see `turbopilot.bench.divergence`.
        """
        if not self.compares:
            return row
        try:
            reference = self._logits()
        except NotEnoughDisk as e:
            self.reporter.notify(f"what is lost is not measured: {e.message}")
            self.compares = False
            return row
        with self.reporter.progress(f"compare {row.name}") as progress:
            return replace(
                row, divergence=divergence(path, reference, self.setup, progress=progress)
            )

    def _logits(self) -> Reference:
        if self._reference is None:
            setup = replace(self.setup, cache_type="F16")
            with self.reporter.progress("reference") as progress:
                self._reference = keep_reference(
                    self.source, evaluation_text(), self.folder / "logits", setup, progress=progress
                )
        return self._reference
