"""`turbopilot quantize --fit`: from a budget of memory to a file, and to what it really takes and loses.

The whole process counts: what it takes beside the weights is asked of llama.cpp, and what is left is theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from turbopilot import console
from turbopilot.errors import QuantizationError, TurboPilotError

if TYPE_CHECKING:
    from quantize import QuantizeReport
    from quantize.fit import Fit, Sensitivity
    from turbopilot.bench import Divergence, Memory, Reference, Setup

# What `serve` has beside the process that is measured: Flask, waitress and its threads, a request. Measured as the
# difference of the two on one model, 35 MB.
SERVER: Final = 36_000_000
# Not offered beside it: full precision, and types for models that were trained in them.
_NOT_PLAIN: Final = ("F32", "BF16", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE")


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the memory goes. Bytes.

    Attributes:
        total: that the process may take.
        process: Python, the server, llama.cpp's library, the vocabulary.
        kv: keys and values of the context.
        compute: what a batch is computed in, and its logits.
    """

    total: int
    process: int
    kv: int
    compute: int

    @property
    def beside(self) -> int:
        """All but the weights."""
        return self.process + self.kv + self.compute

    @property
    def room(self) -> int:
        """For the weights."""
        return self.total - self.beside


@dataclass(frozen=True, slots=True)
class Row:
    """A file, or one that could be.

    Attributes:
        name: of its type.
        tensor_bytes: its weights.
        footprint: predicted bytes of the whole process.
        predicted_kl: in nats; None where sensitivities were not measured.
        memory: measured; None where it was not written.
        divergence: measured, from the source.
        types: type → weights in it.
    """

    name: str
    tensor_bytes: int
    footprint: int
    predicted_kl: float | None
    types: Mapping[str, int]
    memory: Memory | None = None
    divergence: Divergence | None = None

    @property
    def measured_footprint(self) -> int | None:
        """Bytes of the whole process, as it ran."""
        return self.memory.needed + SERVER if self.memory else None


@dataclass(frozen=True, slots=True)
class FitReport:
    """What was made, and what else would have fitted.

    Attributes:
        path: the file.
        budget: where the memory goes.
        setup: what it was made for.
        sensitivity: how it was found.
        fitted: the file.
        plain: types that also fit, those that lose least first.
        written: what the quantizer says.
    """

    path: Path
    budget: Budget
    setup: Setup
    sensitivity: Sensitivity
    fitted: Row
    plain: tuple[Row, ...]
    written: QuantizeReport


def budget_of(source: Path, total: int, setup: Setup) -> Budget:
    """What is needed beside the weights, from llama.cpp itself."""
    from turbopilot.bench import planned

    beside = planned(source, setup)
    buffers = beside.buffers
    return Budget(total, beside.now + SERVER, buffers.kv, buffers.compute + buffers.output)


def make(
    source: Path,
    output: Path,
    budget: Budget,
    setup: Setup,
    *,
    imatrix: Path | None,
    candidates: tuple[str, ...],
    seconds: float,
    compare: int,
    threads: int,
    n_gpu_layers: int | None,
    force: bool,
    memory: Path,
) -> FitReport:
    """Measure, allocate, write, and measure again.

    Args:
        source: an F16 file.
        output: the file to write.
        budget: of `budget_of`.
        setup: how it will be served.
        imatrix: an importance matrix.
        candidates: types to choose from.
        seconds: for sensitivities; 0 goes by the matrix's weighted errors alone.
        compare: so many of the plain types that fit are made too, measured and deleted.
        threads: 0 means all cores.
        n_gpu_layers: layers on the GPU.
        force: overwrite `output`.
        memory: folder where digests are remembered.

    Raises:
        QuantizationError: nothing fits, or llama.cpp failed.
    """
    from quantize.fit import Fit
    from turbopilot.atomic import check_output
    from turbopilot.code_corpus import calibration_text

    check_output(output, force=force, inputs=(source,))
    fit = Fit(source, imatrix, candidates)
    _refuse(source, fit, budget, setup)
    with console.progress("measure") as progress:
        found = fit.measure(
            budget.room,
            calibration_text(),
            seconds=seconds,
            threads=threads,
            n_gpu_layers=n_gpu_layers,
            progress=progress,
        )
    judge = _Judge(source, setup, threads, n_gpu_layers)
    with ExitStack() as stack:
        stack.enter_context(judge)
        written, fitted = _written(fit, found, output, budget, judge, force, threads, memory)
        plain = _plain(fit, found, budget)
        for i, row in enumerate(plain[:compare]):
            plain[i] = _tried(fit, row, output, judge, threads)
    return FitReport(output, budget, setup, found, fitted, tuple(plain), written)


def _refuse(source: Path, fit: Fit, budget: Budget, setup: Setup) -> None:
    if fit.smallest <= budget.room:
        return
    smallest = fit.smallest + budget.beside
    hints = [f"the smallest that can be made needs --fit {smallest / 2**30 + 0.005:.2f}GiB"]
    if setup.cache_type == "F16" and budget.kv > budget.total // 20:
        hints.append(f"--cache-type q8_0 saves {console.size(budget.kv * 15 / 32)}")
    if setup.n_ctx > 512 and budget.kv > budget.total // 20:
        hints.append(f"--ctx {setup.n_ctx // 2} saves {console.size(budget.kv / 2)}")
    raise QuantizationError(
        f"{source}: does not fit into {console.size(budget.total)}: its weights need {console.size(fit.smallest)} in "
        f"their smallest types, the KV cache of {setup.n_ctx:,} tokens {console.size(budget.kv)}, a batch "
        f"{console.size(budget.compute)}, and the process {console.size(budget.process)}",
        hint="; ".join(hints),
    )


class _Judge:
    """Runs a file as it will be served, and compares it with the source. A context manager: keeps its logits."""

    def __init__(self, source: Path, setup: Setup, threads: int, n_gpu_layers: int | None) -> None:
        self._source = source
        self._setup = replace(setup, n_threads=threads or None, n_gpu_layers=n_gpu_layers)
        self._folder = tempfile.TemporaryDirectory(prefix="turbopilot-fit-")
        self._reference: Reference | None = None

    def __enter__(self) -> _Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def judge(self, path: Path, row: Row) -> Row:
        """Memory and divergence of a file."""
        from turbopilot.bench import divergence, keep_reference, measure
        from turbopilot.code_corpus import evaluation_text

        if self._reference is None:
            with console.progress("reference") as progress:
                self._reference = keep_reference(
                    self._source,
                    evaluation_text(),
                    Path(self._folder.name) / "logits",
                    replace(self._setup, cache_type="F16"),
                    progress=progress,
                )
        with console.progress(f"measure {row.name}") as progress:
            measured = measure(path, self._setup, progress=progress)
            far = divergence(path, self._reference, self._setup, progress=progress)
        return replace(row, memory=measured.memory, divergence=far)


def _written(
    fit: Fit,
    found: Sensitivity,
    output: Path,
    budget: Budget,
    judge: _Judge,
    force: bool,
    threads: int,
    memory: Path,
) -> tuple[QuantizeReport, Row]:
    """Write the file; once more, smaller, where it takes more than was predicted."""
    room = budget.room
    for last in (False, True):
        allocation = fit.allocate(room, found)
        assert allocation is not None  # _refuse has seen that the smallest fits
        notes: dict[str, str | int] = {"memory": budget.total, "room": room}
        if found.measured:
            notes["predicted_kl"] = f"{allocation.loss:.3g}"
        with console.progress("quantize") as progress:
            written = fit.write(
                allocation,
                output,
                force=force,
                threads=threads,
                memory=memory,
                notes=notes,
                progress=progress,
            )
        types: dict[str, int] = {}
        for u in fit.units:
            types[allocation.types[u.name]] = types.get(allocation.types[u.name], 0) + u.n_weights
        row = judge.judge(
            output,
            Row(
                "fitted",
                allocation.tensor_bytes,
                budget.beside + allocation.tensor_bytes,
                allocation.loss if found.measured else None,
                dict(sorted(types.items(), key=lambda item: -item[1])),
            ),
        )
        over = (row.measured_footprint or 0) - budget.total
        if over <= 0 or last or fit.allocate(room - over, found) is None:
            return written, row
        console.info(f"it takes {console.size(over)} more than predicted: once more, smaller")
        room, force = room - over, True
    raise AssertionError  # the loop returns


def _plain(fit: Fit, found: Sensitivity, budget: Budget) -> list[Row]:
    """The plain types that fit, by what they lose: what is predicted, or else their size."""
    from quantize import RECIPES

    rows = []
    usable = [
        r for r in RECIPES if r.name not in _NOT_PLAIN and (fit.imatrix or not r.needs_imatrix)
    ]
    with console.progress("other types") as progress:
        for i, recipe in enumerate(usable):
            progress(i, len(usable), recipe.name)
            preview, loss = fit.plain(recipe.name, found)
            if preview.tensor_bytes > budget.room or preview.without_imatrix(fit.entries):
                continue
            types: dict[str, int] = {}
            for t in preview.tensors:
                if len(t.shape) > 1:
                    types[t.after] = types.get(t.after, 0) + t.n_weights
            rows.append(
                Row(
                    recipe.name,
                    preview.tensor_bytes,
                    budget.beside + preview.tensor_bytes,
                    loss if found.measured else None,
                    types,
                )
            )
    key: Callable[[Row], float] = (
        (lambda r: r.predicted_kl or 0.0) if found.measured else (lambda r: -r.tensor_bytes)
    )
    return sorted(rows, key=key)


def _tried(fit: Fit, row: Row, output: Path, judge: _Judge, threads: int) -> Row:
    """A plain type, made beside the output, measured and deleted; as it was where it cannot be made."""
    from quantize import Options, quantize

    trial = output.with_name(f"{output.stem}.{row.name.lower()}.trial")
    try:
        with console.progress(f"quantize {row.name}") as progress:
            options = Options(imatrix=fit.imatrix, threads=threads)
            quantize(fit.source, trial, row.name, options, force=True, progress=progress)
        return judge.judge(trial, row)
    except TurboPilotError as e:
        console.info(f"{row.name} was not measured: {e.message}")
        return row
    finally:
        trial.unlink(missing_ok=True)
