"""Quantization to a memory budget (`turbopilot quantize --fit`), and measurement of the result.

The budget is for the whole process. llama.cpp reports the memory that it needs in addition to the weights; the weights
get the rest.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from quantize import RECIPES, Preview, QuantizeOptions, QuantizeReport, quantize
from quantize.fit import CANDIDATES, Allocation, Fit, MeasureOptions
from turbopilot.app.cached_artifacts import MATRIX_SECONDS, matrix_file
from turbopilot.app.fit_report import SERVER, Budget, FitReport, FitRow
from turbopilot.base.atomic import check_output
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import (
    InvalidInput,
    NotEnoughDisk,
    QuantizationError,
    TurboPilotError,
    did_you_mean,
)
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.bench import Reference, Setup, divergence, keep_reference, measure, planned
from turbopilot.catalog.prompt_speed import PROMPT_SPEED
from turbopilot.corpus import calibration_text, evaluation_text
from turbopilot.formats.gguf.metadata import PREFIX

# Types that are not compared: full precision, and types for models that were trained in them.
_NOT_PLAIN: Final = ("F32", "BF16", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE")
# In percent of F16's prefill speed; slower types are used only if --types names them.
_SLOW: Final = 60
# Bytes by which the memory of a process varies from run to run. The hint adds them, so that its size is enough.
_VARIES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class FitRequest:
    """Options of a fit.

    Attributes:
        memory: limit for the whole process, in bytes.
        setup: settings that the file will be served with.
        candidates: types to choose from.
        imatrix: file of an importance matrix, "auto" or "none".
        seconds: time limit for measuring sensitivities; 0 uses rounding errors only.
        is_quick: run neither the model nor the fitted file.
        compare: number of standard types that fit to quantize and measure for comparison; their files are deleted.
    """

    memory: int
    setup: Setup
    candidates: tuple[str, ...]
    imatrix: str
    seconds: float
    is_quick: bool
    compare: int


def candidates(text: str) -> tuple[str, ...]:
    """Return the types in a `--types` value; for an empty value, all types with a fast prefill."""
    if not text:
        return tuple(t for t in CANDIDATES if PROMPT_SPEED.get(t, 100) >= _SLOW)
    found = tuple(dict.fromkeys(t.strip().upper() for t in text.split(",") if t.strip()))
    for t in found:
        if t not in CANDIDATES:
            raise InvalidInput(
                f"--types {t}: is not a type that --fit supports", hint=did_you_mean(t, CANDIDATES)
            )
    return found


def plan_fit(source: Path, request: FitRequest, reporter: Reporter) -> Preview:
    """Return the type and size that `make_fit` would give each tensor; raise the same errors."""
    measured = _MemoryFit(source, request, reporter)
    return measured.fit.preview(measured.allocation())


def make_fit(
    source: Path, output: Path, request: FitRequest, reporter: Reporter, *, force: bool = False
) -> FitReport:
    """Write the best file for the budget, and measure it and the best standard types that fit.

    Args:
        source: an F32, F16 or BF16 GGUF file.
        output: file to write.
        request: options of the fit.
        reporter: receives messages and progress.
        force: overwrite the output file.

    Raises:
        QuantizationError: nothing fits, or llama.cpp failed.
    """
    check_output(output, force=force, inputs=(source,))  # before the slow steps
    return _MemoryFit(source, request, reporter).make(output, force=force)


@dataclass(slots=True)
class _TrialRuns:
    """Trial runs of files made from one source.

    Attributes:
        source: file to compare with.
        setup: settings to run the files with.
        folder: empty folder for the source's logits.
        reporter: receives messages and progress.
        compares: measure divergence in addition to memory.
    """

    source: Path
    setup: Setup
    folder: Path
    reporter: Reporter
    compares: bool
    _reference: Reference | None = None

    def memory(self, path: Path, row: FitRow) -> FitRow:
        """Return the row with the file's measured memory."""
        with self.reporter.progress(f"measure {row.name}") as progress:
            return replace(row, memory=measure(path, self.setup, progress=progress).memory)

    def divergence(self, path: Path, row: FitRow) -> FitRow:
        """Return the row with the file's divergence; unchanged if the source's logits do not fit on the disk."""
        if not self.compares:
            return row
        try:
            reference = self._logits()
        except NotEnoughDisk as e:
            self.reporter.notify(f"divergence is not measured: {e.message}")
            self.compares = False
            return row
        with self.reporter.progress(f"compare {row.name}") as progress:
            found = divergence(path, reference, self.setup, progress=progress)
        return replace(row, divergence=found)

    def _logits(self) -> Reference:
        if self._reference is None:
            setup = replace(self.setup, cache_type="F16")
            with self.reporter.progress("reference") as progress:
                self._reference = keep_reference(
                    self.source, evaluation_text(), self.folder / "logits", setup, progress=progress
                )
        return self._reference


class _MemoryFit:
    """Model whose sensitivities are measured on construction, and its memory budget."""

    def __init__(self, source: Path, request: FitRequest, reporter: Reporter) -> None:
        setup = request.setup
        self.request, self.reporter = request, reporter
        self.threads = setup.n_threads or 0
        seconds = 0 if request.is_quick else request.seconds
        matrix = matrix_file(
            request.imatrix, source, reporter, seconds=seconds / 2 or MATRIX_SECONDS,
            threads=self.threads, n_gpu_layers=setup.n_gpu_layers,
        )  # fmt: skip
        self.fit = Fit(source, matrix, request.candidates)
        beside = planned(self.fit.header, setup)
        buffers = beside.buffers
        self.budget = Budget(
            request.memory, beside.now + SERVER, buffers.kv, buffers.compute + buffers.output
        )
        self._refuse()
        options = MeasureOptions(calibration_text(), seconds, self.threads, setup.n_gpu_layers)
        with reporter.progress("measure") as progress:
            self.found = self.fit.measure(self.budget.room, options, progress)

    def make(self, output: Path, *, force: bool) -> FitReport:
        request, found = self.request, self.found
        with tempfile.TemporaryDirectory(prefix="turbopilot-fit-") as folder:
            runs = _TrialRuns(
                self.fit.source, request.setup, Path(folder), self.reporter, found.measured
            )
            written, fitted = self._written(output, runs, force=force)
            plain = self._plain()
            for i, row in enumerate(plain[: 0 if request.is_quick else request.compare]):
                plain[i] = self._tried(row, output, runs)
        return FitReport(
            output, self.budget, request.setup, found, fitted, tuple(plain), written.seconds
        )

    def _refuse(self) -> None:
        smallest, b, setup = self.fit.smallest, self.budget, self.request.setup
        if smallest <= b.room:
            return
        hints = [f"the smallest possible file needs --fit {_typed(smallest + b.beside + _VARIES)}"]
        if setup.cache_type == "F16" and b.kv > b.total // 20:
            hints.append(f"--cache-type q8_0 saves {size(b.kv * 15 // 32)}")
        if setup.n_ctx > 512 and b.kv > b.total // 20:
            hints.append(f"--ctx {setup.n_ctx // 2} saves {size(b.kv // 2)}")
        raise QuantizationError(
            f"{self.fit.source}: does not fit into {size(b.total)}: the weights need {size(smallest)} in the smallest "
            f"types, the KV cache of {setup.n_ctx:,} tokens {size(b.kv)}, the compute buffers {size(b.compute)}, and "
            f"the process {size(b.process)}",
            hint="; ".join(hints),
        )

    def allocation(self) -> Allocation:
        allocation = self.fit.allocate(self.budget.room, self.found)
        assert allocation is not None  # _refuse has checked that the smallest types fit
        return allocation

    def _written(
        self, output: Path, runs: _TrialRuns, *, force: bool
    ) -> tuple[QuantizeReport, FitRow]:
        """Write the file; if the process takes more memory than predicted, write a smaller one."""
        for last in (False, True):
            allocation = self.allocation()
            metadata: dict[str, str | int] = {
                f"{PREFIX}fit.memory": self.budget.total,
                f"{PREFIX}fit.n_ctx": self.request.setup.n_ctx,
            }
            if self.found.measured:
                metadata[f"{PREFIX}fit.predicted_kl"] = f"{allocation.loss:.3g}"
            options = QuantizeOptions(
                threads=self.threads, metadata=metadata, digests=cache_folder()
            )
            with self.reporter.progress("quantize") as progress:
                written = self.fit.write(
                    allocation, output, options, force=force, progress=progress
                )
            row = self._row(self.fit.preview(allocation), allocation.loss)
            if self.request.is_quick:
                return written, row
            row = runs.memory(output, row)
            over = (row.measured_footprint or 0) - self.budget.total
            if over <= 0 or last or not self.fit.allocate(self.budget.room - over, self.found):
                break
            self.reporter.notify(
                f"serving takes {size(over)} more than predicted: making a smaller file"
            )
            self.budget, force = replace(self.budget, process=self.budget.process + over), True
        return written, runs.divergence(output, row)

    def _row(self, preview: Preview, loss: float | None) -> FitRow:
        """Return a row without measurements."""
        types: Counter[str] = Counter()
        for t in preview.tensors:
            if len(t.shape) > 1:
                types[t.after] += t.n_weights
        footprint = self.budget.beside + preview.tensor_bytes
        kl = loss if self.found.measured else None
        return FitRow(preview.name, preview.tensor_bytes, footprint, kl, types)

    def _plain(self) -> list[FitRow]:
        """Return the standard types that fit, sorted by predicted divergence if it is known, else by size."""
        rows = []
        for recipe in RECIPES:
            if recipe.name in _NOT_PLAIN or (recipe.needs_imatrix and not self.fit.imatrix):
                continue
            preview, loss = self.fit.plain(recipe, self.found)
            if preview.tensor_bytes > self.budget.room or preview.without_imatrix(self.fit.entries):
                continue
            rows.append(self._row(preview, loss))
        rows.sort(key=lambda r: -r.tensor_bytes)
        if self.found.measured:
            rows.sort(key=lambda r: math.inf if r.predicted_kl is None else r.predicted_kl)
        return rows

    def _tried(self, row: FitRow, output: Path, runs: _TrialRuns) -> FitRow:
        """Return the row with measurements of a temporary file of this type; unchanged if that fails."""
        trial = output.with_name(f"{output.stem}.{row.name.lower()}.trial")
        options = QuantizeOptions(imatrix=self.fit.imatrix, threads=self.threads)
        try:
            with self.reporter.progress(f"quantize {row.name}") as progress:
                quantize(self.fit.source, trial, row.name, options, force=True, progress=progress)
            return runs.divergence(trial, runs.memory(trial, row))
        except TurboPilotError as e:
            self.reporter.notify(f"{row.name} was not measured: {e.message}")
            return row
        finally:
            trial.unlink(missing_ok=True)


def _typed(n_bytes: int) -> str:
    """Return a size as an argument for `--fit`, rounded up."""
    if n_bytes < 1e9:
        return f"{math.ceil(n_bytes / 1e6)}MB"
    return f"{math.ceil(n_bytes / 2**30 * 100) / 100:.2f}GiB"
