"""`turbopilot quantize --fit`: from a budget of memory to a file, and to what it really takes and loses.

The whole process counts: what it takes beside the weights is asked of llama.cpp, and what is left is theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from turbopilot.app.fit_report import SERVER, Budget, FitReport, Row
from turbopilot.app.trial_run import Judge
from turbopilot.base.errors import InvalidInput, QuantizationError, TurboPilotError, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from quantize import Preview, QuantizeReport
    from quantize.fit import Allocation, Fit, Sensitivity
    from turbopilot.bench import Setup

# Not offered beside it: full precision, and types for models that were trained in them.
_NOT_PLAIN: Final = ("F32", "BF16", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4_MOE")
# Percent of F16's speed on a prompt, below which a type is not chosen unless it is asked for.
_SLOW: Final = 60
# What a process takes differs by this many bytes from one run to the next: what is offered must do next time, too.
_VARIES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        memory: bytes that the whole process may take.
        setup: how the file will be served.
        candidates: types to choose from.
        imatrix: an importance matrix.
        seconds: for measuring sensitivities; 0 goes by errors of rounding alone.
        check: run what was made, and measure it.
        compare: so many of the plain types that fit are made too, measured and deleted.
        threads: 0 means all cores.
        force: overwrite the output.
        cache: folder where digests are remembered.
    """

    memory: int
    setup: Setup
    candidates: tuple[str, ...]
    imatrix: Path | None
    seconds: float
    check: bool
    compare: int
    threads: int
    force: bool
    cache: Path


def candidates(text: str) -> tuple[str, ...]:
    """The types of `--types`, or all but those that make prompts slow.

    Raises:
        InvalidInput: one of them is none that --fit chooses from.
    """
    from quantize.fit import CANDIDATES
    from turbopilot.catalog.prompt_speed import PROMPT_SPEED

    if not text:
        return tuple(t for t in CANDIDATES if PROMPT_SPEED.get(t, 100) >= _SLOW)
    found = tuple(dict.fromkeys(t.strip().upper() for t in text.split(",") if t.strip()))
    for t in found:
        if t not in CANDIDATES:
            raise InvalidInput(
                f"--types {t}: no type that --fit can choose", hint=did_you_mean(t, CANDIDATES)
            )
    return found


def make(source: Path, output: Path, wish: Wish) -> FitReport:
    """Measure, allocate, write, and measure again.

    Raises:
        QuantizationError: nothing fits, or llama.cpp failed.
    """
    fit, budget, found = _measured(source, wish)
    with Judge(source, wish.setup, kl=found.measured) as judge:
        written, fitted, budget = _written(fit, found, output, budget, wish, judge)
        plain = _plain(fit, found, budget)
        for i, row in enumerate(plain[: wish.compare if wish.check else 0]):
            plain[i] = _tried(fit, row, output, judge, wish.threads)
    return FitReport(output, budget, wish.setup, found, fitted, tuple(plain), written.seconds)


def preview(source: Path, wish: Wish) -> Preview:
    """What `make` would do with each tensor.

    Raises:
        QuantizationError: nothing fits, or llama.cpp failed.
    """
    fit, budget, found = _measured(source, wish)
    return fit.preview(_allocated(fit, budget.room, found))


def _measured(source: Path, wish: Wish) -> tuple[Fit, Budget, Sensitivity]:
    """All that an allocation needs."""
    from quantize.fit import Fit
    from turbopilot.bench import planned
    from turbopilot.corpus import calibration_text

    fit = Fit(source, wish.imatrix, wish.candidates)
    beside = planned(source, wish.setup)
    buffers = beside.buffers
    budget = Budget(wish.memory, beside.now + SERVER, buffers.kv, buffers.compute + buffers.output)
    _refuse(source, fit, budget, wish.setup)
    with console.progress("measure") as progress:
        found = fit.measure(
            budget.room, calibration_text(), seconds=wish.seconds, threads=wish.threads,
            n_gpu_layers=wish.setup.n_gpu_layers, progress=progress,
        )  # fmt: skip
    return fit, budget, found


def _refuse(source: Path, fit: Fit, budget: Budget, setup: Setup) -> None:
    if fit.smallest <= budget.room:
        return
    smallest = fit.smallest + budget.beside
    hints = [f"the smallest that can be made needs --fit {_typed(smallest + _VARIES)}"]
    if setup.cache_type == "F16" and budget.kv > budget.total // 20:
        hints.append(f"--cache-type q8_0 saves {console.size(budget.kv * 15 // 32)}")
    if setup.n_ctx > 512 and budget.kv > budget.total // 20:
        hints.append(f"--ctx {setup.n_ctx // 2} saves {console.size(budget.kv // 2)}")
    raise QuantizationError(
        f"{source}: does not fit into {console.size(budget.total)}: its weights need {console.size(fit.smallest)} in "
        f"their smallest types, the KV cache of {setup.n_ctx:,} tokens {console.size(budget.kv)}, a batch "
        f"{console.size(budget.compute)}, and the process {console.size(budget.process)}",
        hint="; ".join(hints),
    )


def _typed(n_bytes: int) -> str:
    """A size that is no smaller, as a person types it."""
    if n_bytes < 1e9:
        return f"{math.ceil(n_bytes / 1e6)}MB"
    return f"{math.ceil(n_bytes / 2**30 * 100) / 100:.2f}GiB"


def _allocated(fit: Fit, room: int, found: Sensitivity) -> Allocation:
    allocation = fit.allocate(room, found)
    assert allocation is not None  # _refuse has seen that the smallest fits
    return allocation


def _written(
    fit: Fit, found: Sensitivity, output: Path, budget: Budget, wish: Wish, judge: Judge
) -> tuple[QuantizeReport, Row, Budget]:
    """Write the file; once more, smaller, where the process takes more than was predicted.

    Returns:
        With the budget, as the first file has shown it to be.
    """
    force = wish.force
    for last in (False, True):
        allocation = _allocated(fit, budget.room, found)
        notes: dict[str, str | int] = {"memory": budget.total, "n_ctx": wish.setup.n_ctx}
        if found.measured:
            notes["predicted_kl"] = f"{allocation.loss:.3g}"
        with console.progress("quantize") as progress:
            written = fit.write(
                allocation, output, force=force, threads=wish.threads, memory=wish.cache, notes=notes,
                progress=progress,
            )  # fmt: skip
        weights = ((allocation.types[u.name], u.n_weights) for u in fit.units)
        loss = allocation.loss if found.measured else None
        row = _row("fitted", allocation.tensor_bytes, budget, loss, weights)
        if not wish.check:
            return written, row, budget
        row = judge.memory(output, row)
        over = (row.measured_footprint or 0) - budget.total
        if over <= 0 or last or fit.allocate(budget.room - over, found) is None:
            break
        console.info(f"it takes {console.size(over)} more than predicted: once more, smaller")
        budget, force = replace(budget, process=budget.process + over), True
    return written, judge.divergence(output, row), budget


def _row(
    name: str,
    tensor_bytes: int,
    budget: Budget,
    loss: float | None,
    weights: Iterable[tuple[str, int]],
) -> Row:
    """A file that was not run; `weights` are (type, number) of its matrices."""
    types: Counter[str] = Counter()
    for kind, n in weights:
        types[kind] += n
    return Row(name, tensor_bytes, budget.beside + tensor_bytes, loss, types)


def _plain(fit: Fit, found: Sensitivity, budget: Budget) -> list[Row]:
    """The plain types that fit, by what they lose: what is predicted, or else their size."""
    from quantize import RECIPES
    from turbopilot.base.machine import usable_cores

    rows = []
    usable = [
        r for r in RECIPES if r.name not in _NOT_PLAIN and (fit.imatrix or not r.needs_imatrix)
    ]
    # Each is asked of llama.cpp in a process of its own, which is mostly starting.
    with console.progress("other types") as progress, ThreadPoolExecutor(usable_cores()) as pool:
        asked = pool.map(lambda r: fit.plain(r.name, found), usable)
        for i, (recipe, (preview, loss)) in enumerate(zip(usable, asked, strict=True)):
            progress(i, len(usable), recipe.name)
            if preview.tensor_bytes > budget.room or preview.without_imatrix(fit.entries):
                continue
            weights = ((t.after, t.n_weights) for t in preview.tensors if len(t.shape) > 1)
            kl = loss if found.measured else None
            rows.append(_row(recipe.name, preview.tensor_bytes, budget, kl, weights))
    rows.sort(key=lambda r: -r.tensor_bytes)
    if found.measured:
        rows.sort(key=lambda r: math.inf if r.predicted_kl is None else r.predicted_kl)
    return rows


def _tried(fit: Fit, row: Row, output: Path, judge: Judge, threads: int) -> Row:
    """A plain type, made beside the output, measured and deleted; as it was where it cannot be made."""
    from quantize import Options, quantize

    trial = output.with_name(f"{output.stem}.{row.name.lower()}.trial")
    try:
        with console.progress(f"quantize {row.name}") as progress:
            options = Options(imatrix=fit.imatrix, threads=threads)
            quantize(fit.source, trial, row.name, options, force=True, progress=progress)
        return judge.divergence(trial, judge.memory(trial, row))
    except TurboPilotError as e:
        console.info(f"{row.name} was not measured: {e.message}")
        return row
    finally:
        trial.unlink(missing_ok=True)
