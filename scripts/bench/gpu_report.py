"""Markdown report of scripts/check_gpu."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from bench.gpu_check import GpuCheck, GpuResults, SpeedRow
from bench.report import machine

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
    if not results.has_gpu:
        verdict = f"**A dry run: no GPU was used.** {verdict}"
    yield (
        f"`scripts/check_gpu {shlex.join(command)}`".replace(" `", "`")
        + f" — {about['date']}, {seconds:,.0f} s. {verdict}"
    )
    yield ""
    facts = {c["name"]: c["found"] for c in results.doctor.get("checks", [])}
    for name in ("processor", "cores", "memory", "gpu", "llama.cpp"):
        yield f"- {name}: {facts.get(name, 'unknown')}"
    yield f"- system: {about['system']}, Python {about['python']}"
    yield from (f"- {p.server.name}: {p.server.version}" for p in check.peers)
    yield ""
    yield "| step | verdict | |"
    yield "|---|---|---|"
    yield from (f"| {s.name} | {_WORDS[s.passed]} | {_cell(s.detail)} |" for s in results.steps)
    if results.speeds:
        yield from _speed_table(results.speeds, check)


def _speed_table(rows: Sequence[SpeedRow], check: GpuCheck) -> Iterator[str]:
    n_prompt, n_tokens = check.sizes.tokens
    names = [p.server.name for p in check.peers]
    yield ""
    yield (
        f"Speed, in generated tokens/s of all streams: a random CodeGen-{check.sizes.geometry}, {n_prompt} prompt "
        f"tokens and {n_tokens} generated tokens for each request, {max(check.sizes.streams)} slots, "
        f"{check.n_threads} threads. The ratio is ours to llama-server's."
    )
    yield ""
    yield "| " + " | ".join(["type", "layers on the GPU", "streams", *names, "ratio"]) + " |"
    yield "|---|---|" + "---:|" * (2 + len(names))
    for row in rows:
        speeds = [f"{row.speeds[n]:,.1f}" if n in row.speeds else "failed" for n in names]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        yield (
            "| " + " | ".join([row.type_name, row.layers, str(row.streams), *speeds, ratio]) + " |"
        )


def _cell(text: str) -> str:
    """Return a text that fits in a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
