"""Quantization to a memory budget (`turbopilot quantize --fit` and `--fit-vram`), and measurement of the result."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from quantize import RECIPES, Preview, QuantizeOptions, QuantizeReport, quantize
from quantize.fit import CANDIDATES, Allocation, DeviceLimits, Fit, MeasureOptions
from turbopilot.app.cached_artifacts import MATRIX_SECONDS, matrix_file
from turbopilot.app.fit_budget import FitBudget, MainMemoryFit, OnDevicesFit
from turbopilot.app.fit_report import SERVER, FitReport, FitRow
from turbopilot.base.atomic import check_output
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import (
    InvalidInput,
    NotEnoughDisk,
    TurboPilotError,
    did_you_mean,
)
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.bench import (
    Reference,
    Setup,
    context_of,
    divergence,
    keep_reference,
    measure,
    planned,
)
from turbopilot.catalog.prompt_speed import PROMPT_SPEED
from turbopilot.corpus import calibration_text, evaluation_text
from turbopilot.formats.gguf.metadata import PREFIX

# Types that are not compared: full precision, and types for models that were trained in them.
_NOT_PLAIN: Final = ("F32", "BF16", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE")
# In percent of F16's prefill speed; slower types are used only if --types names them.
_SLOW: Final = 60


@dataclass(frozen=True, slots=True)
class FitRequest:
    """Options of a fit.

    Attributes:
        memory: limit for the whole server, in main memory and on devices, in bytes; None for no limit.
        devices: limit for the part on each device, in bytes; () for no limit.
        setup: settings that the file will be served with.
        candidates: types to choose from.
        imatrix: file of an importance matrix, "auto" or "none".
        seconds: time limit for measuring sensitivities; 0 uses rounding errors only.
        is_quick: run neither the model nor the fitted file.
        compare: number of standard types that fit to quantize and measure for comparison; their files are deleted.
        texts: text to measure sensitivities on, and text to compare files on; None for the bundled ones.
    """

    memory: int | None
    devices: tuple[int, ...]
    setup: Setup
    candidates: tuple[str, ...]
    imatrix: str
    seconds: float
    is_quick: bool
    compare: int
    texts: tuple[str, str] | None = None

    @property
    def trial_setup(self) -> Setup:
        """Settings for runs of the files: devices have only the memory of the limit."""
        if not self.devices:
            return self.setup
        wish = replace(self.setup.placement, most=self.devices, margin=0)
        return replace(self.setup, placement=wish)


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
        text: text to compare files on.
    """

    source: Path
    setup: Setup
    folder: Path
    reporter: Reporter
    compares: bool
    text: str
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
                    self.source, self.text, self.folder / "logits", setup, progress=progress
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
            threads=self.threads, placement=setup.placement,
        )  # fmt: skip
        self.fit = Fit(source, matrix, request.candidates)
        self.limits = self._limits()
        self.limits.check()
        text = request.texts[0] if request.texts else calibration_text()
        options = MeasureOptions(text, seconds, self.threads, setup.placement)
        with reporter.progress("measure") as progress:
            self.found = self.fit.measure(self.limits.bits, options, progress)

    def _limits(self) -> FitBudget:
        setup, request = self.request.setup, self.request
        beside = planned(self.fit.header, setup)
        if not request.devices:
            assert request.memory is not None  # one of the two limits is given
            return MainMemoryFit.of(self.fit, request.memory, setup, beside)
        need, process = setup.need(context_of(self.fit.header, setup.n_ctx)), beside.now + SERVER
        limits = DeviceLimits(request.devices, need, setup.placement, request.memory, process)
        return OnDevicesFit(self.fit, limits, setup)

    def make(self, output: Path, *, force: bool) -> FitReport:
        request, found = self.request, self.found
        with tempfile.TemporaryDirectory(prefix="turbopilot-fit-") as folder:
            text = request.texts[1] if request.texts else evaluation_text()
            runs = _TrialRuns(
                self.fit.source,
                request.trial_setup,
                Path(folder),
                self.reporter,
                found.measured,
                text,
            )
            written, fitted = self._written(output, runs, force=force)
            plain = self._plain()
            for i, row in enumerate(plain[: 0 if request.is_quick else request.compare]):
                plain[i] = self._tried(row, output, runs)
        return FitReport(
            output, self.limits.budget, request.setup, found, fitted, tuple(plain), written.seconds
        )

    def allocation(self) -> Allocation:
        allocation = self.limits.allocate(self.found)
        assert allocation is not None  # the smallest types fit
        return allocation

    def _written(
        self, output: Path, runs: _TrialRuns, *, force: bool
    ) -> tuple[QuantizeReport, FitRow]:
        """Write the file; if the server takes more memory than predicted, write a smaller one."""
        for last in (False, True):
            allocation = self.allocation()
            options = QuantizeOptions(
                threads=self.threads, metadata=self._metadata(allocation), digests=cache_folder()
            )
            with self.reporter.progress("quantize") as progress:
                written = self.fit.write(
                    allocation, output, options, force=force, progress=progress
                )
            row = self._row(self.fit.preview(allocation), allocation.loss)
            if self.request.is_quick:
                return written, row
            row = runs.memory(output, row)
            over = self.limits.over(row)
            if not over or last or not (less := self.limits.shrunk(row)).allocate(self.found):
                break
            self.reporter.notify(
                f"serving takes {size(over)} more than predicted: making a smaller file"
            )
            self.limits, force = less, True
        return written, runs.divergence(output, row)

    def _metadata(self, allocation: Allocation) -> dict[str, str | int]:
        """Return what the file records about the fit."""
        request = self.request
        found: dict[str, str | int] = {f"{PREFIX}fit.n_ctx": request.setup.n_ctx}
        if request.memory is not None:
            found[f"{PREFIX}fit.memory"] = request.memory
        if request.devices:
            found[f"{PREFIX}fit.device_memory"] = ",".join(map(str, request.devices))
        if self.found.measured:
            found[f"{PREFIX}fit.predicted_kl"] = f"{allocation.loss:.3g}"
        return found

    def _row(self, preview: Preview, loss: float | None) -> FitRow:
        """Return a row without measurements."""
        return self.limits.row(preview, loss if self.found.measured else None)

    def _plain(self) -> list[FitRow]:
        """Return the standard types that fit, sorted by predicted divergence if it is known, else by size."""
        rows = []
        for recipe in RECIPES:
            if recipe.name in _NOT_PLAIN or (recipe.needs_imatrix and not self.fit.imatrix):
                continue
            preview, loss = self.fit.plain(recipe, self.found)
            if preview.without_imatrix(self.fit.entries) or not self.limits.holds(preview):
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
