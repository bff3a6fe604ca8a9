"""Markdown report of scripts/check_gpu."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from bench.gpu_check import GpuCheck, GpuResults, SpeedRow, Work
from bench.report import machine
from turbopilot.base.sizes import size

_WORDS = {True: "passed", False: "**failed**", None: "skipped"}


def markdown(
    results: GpuResults, check: GpuCheck, *, seconds: float, command: Sequence[str]
) -> str:
    """Return the report."""
    return "\n".join(_lines(results, check, seconds, command)) + "\n"


def _lines(
    results: GpuResults, check: GpuCheck, seconds: float, command: Sequence[str]
) -> Iterator[str]:
    about = machine()
    yield "# Check of a GPU"
    yield ""
    verdict = "No step failed." if results.passed else "**Some steps failed.**"
    if not results.is_complete:
        verdict = f"{verdict} **It was stopped before its end.**"
    if not results.devices:
        verdict = f"**A dry run: no GPU was used.** {verdict}"
    yield (
        f"`scripts/check_gpu {shlex.join(command)}`".replace(" `", "`")
        + f" — {about['date']}, {seconds:,.0f} s. {verdict}"
    )
    yield ""
    facts = {c["name"]: c["found"] for c in results.doctor.get("checks", [])}
    for name in ("processor", "cores", "memory", "gpu", "llama.cpp"):
        yield f"- {name}: {facts.get(name, 'unknown')}"
    for name, free in results.devices.items():
        yield f"- device: {name}, {size(free)} free"
    yield f"- system: {about['system']}, Python {about['python']}"
    yield from (f"- {p.server.name}: {p.server.version}" for p in check.peers)
    yield ""
    yield "| step | verdict | |"
    yield "|---|---|---|"
    yield from (f"| {s.name} | {_WORDS[s.passed]} | {_cell(s.detail)} |" for s in results.steps)
    if any(row.speeds for row in results.speeds):
        yield from _speed_table(results.speeds, check)


def _speed_table(rows: Sequence[SpeedRow], check: GpuCheck) -> Iterator[str]:
    most = check.sizes.stream
    names = [p.server.name for p in check.peers]
    yield ""
    yield (
        f"Speed, in generated tokens/s of all streams: a random CodeGen-{check.sizes.geometry}, "
        f"{max(check.sizes.streams)} slots, {check.n_threads} threads, the best of up to {check.sizes.rounds} rounds. "
        "Work is the number of requests of each stream, with their prompt and generated tokens: at most "
        f"{_work(most)}, less where the time was short, and the same for each server. The ratio is ours to "
        "llama-server's; – was not measured."
    )
    yield ""
    yield (
        "| " + " | ".join(["type", "layers on the GPU", "streams", "work", *names, "ratio"]) + " |"
    )
    yield "|---|---|---:|---|" + "---:|" * (1 + len(names))
    for row in rows:
        speeds = [f"{row.speeds[n]:,.1f}" if n in row.speeds else "–" for n in names]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        work = _work(row.work) if row.work else "–"
        cells = [row.type_name, row.layers, str(row.streams), work, *speeds, ratio]
        yield "| " + " | ".join(cells) + " |"


def _work(work: Work) -> str:
    return f"{work.requests} × ({work.prompt} + {work.generated})"


def _cell(text: str) -> str:
    """Return a text that fits in a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
