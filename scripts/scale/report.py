"""Tables of simulated and measured results, for the terminal and for docs/scale.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from scale.engines import EngineRecord
from scale.plot import drawn, lines, measured
from scale.simulation import Outcomes, Scenario, simulate
from scale.sizing import DEVELOPERS, SLOWER, TYPING, Size, sizes
from scale.typing_session import HourOfTyping, hour_of

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE, PICTURE = DOCS / "scale.md", DOCS / "img" / "scale.svg"
Rows = list[list[str]]
OUTCOMES: Final = ["compl./s", "p50, ms", "p95, ms", "cached, %", "prefilled"]
CHECKED: Final = ["server", "developers", "replicas", "routing", *OUTCOMES]
SIZED: Final = [
    "developers", "typing", "requests/s", "replicas", "p50, ms", "p95, ms", "cached, %", "at random: p95, ms",
    "cached, % ",
]  # fmt: skip


def cells(o: Outcomes) -> list[str]:
    """Return the cells of `OUTCOMES`; prefilled are the prompt tokens of a request that were computed."""
    return [
        f"{o.completions:,.1f}",
        ms(o.p50),
        ms(o.p95),
        f"{100 * o.cached:.1f}",
        f"{o.computed:.0f}",
    ]


def ms(seconds: float) -> str:
    """Return a duration in milliseconds."""
    return f"{1000 * seconds:,.0f}"


def checked_rows(records: Sequence[EngineRecord]) -> Rows:
    """Return a row for each replay: measured / simulated."""
    rows = []
    for record in records:
        typing = record.typing()
        for run in record.runs:
            s = run.scenario
            pairs = zip(cells(run.measured), cells(simulate(s, typing, record.times)), strict=True)
            pace = f", {s.slower:g} × slower" if s.slower > 1 else ""
            head = [record.name, f"{s.typists}{pace}", str(s.replicas), routing(s)]
            rows.append([*head, *(f"{m} / {x}" for m, x in pairs)])
    return rows


def bound_rows(records: Sequence[EngineRecord]) -> Rows:
    """Return the share of cached tokens with four replicas as a multiple of that with one, for 16 developers."""
    rows = []
    for record in records:
        runs = [r for r in record.runs if r.scenario.slower > 1]
        if not runs:
            continue
        one, *others = runs
        typing = record.typing()
        base = simulate(one.scenario, typing, record.times)
        for run in others:
            again = simulate(run.scenario, typing, record.times)
            rows.append([
                record.name, routing(run.scenario), f"{run.measured.cached / one.measured.cached:.2f}",
                f"{again.cached / base.cached:.2f}", f"{run.measured.computed:.0f} / {again.computed:.0f}",
            ])  # fmt: skip
    return rows


def routing(scenario: Scenario) -> str:
    """Return who chose the replica."""
    return "affinity, by serve" if scenario.front else scenario.policy


BOUND: Final = ["server", "routing", "cached, 4 : 1", "simulated", "prefilled"]


def size_rows(found: Sequence[Size]) -> Rows:
    """Return a row of `SIZED` for each number of developers."""
    return [
        [
            f"{s.developers:,}", f"{s.typists:,}", f"{s.outcomes.requests:,.1f}", f"{s.replicas:,}",
            *cells(s.outcomes)[1:4], *cells(s.at_random)[2:4],
        ]
        for s in found
    ]  # fmt: skip


def time_rows(records: Sequence[EngineRecord]) -> Rows:
    """Return the measured step times of each server."""
    rows = []
    for r in records:
        decode = " · ".join(f"{1000 * d:.3g}" for d in r.times.decode)
        rows.append([
            r.name, f"{1 / max(r.times.prefill_token, 1e-9):,.0f}", decode, f"{1000 * r.times.overhead:.2g}",
            f"{r.characters_per_token:.2f}", f"{r.tokens:.1f}",
        ])  # fmt: skip
    return rows


TIMES: Final = [
    "server", "prefill, tokens/s", "decode step with 1 · 2 · 3 · 4 sequences, ms", "HTTP, ms",
    "characters per token", "tokens per completion",
]  # fmt: skip


def hour_rows(hour: HourOfTyping) -> Rows:
    """Return what one developer sends in an hour of typing."""
    return [
        ["requests", f"{hour.requests:,.0f}"],
        ["of them waited for; the others are cancelled by the next key", f"{hour.finished:,.0f}"],
        ["prompt tokens", f"{hour.prompt_tokens:,.0f}"],
        ["of them new, if everything before is cached", f"{hour.new_tokens:,.0f}"],
        ["generated tokens of completions waited for", f"{hour.generated_tokens:,.0f}"],
    ]


def show(title: str, head: Sequence[str], rows: Rows) -> None:
    """Print a table."""
    table = Table(
        *head, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for row in rows:
        table.add_row(*(cell.replace(" / ", "/") for cell in row))
    Console().print(table)


def markdown(head: Sequence[str], rows: Rows, names: int = 1) -> str:
    """Return a Markdown table; all but the first columns are aligned to the right."""
    rule = ["---" if i < names else "---:" for i in range(len(head))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def write_docs(about: dict[str, Any], records: Sequence[EngineRecord]) -> None:
    """Write the plot, and the tables between the markers of docs/scale.md."""
    paced, model = records[0], records[-1]
    PICTURE.write_text(drawn(lines(paced), measured(paced)), "utf-8")
    typing = model.typing()
    found = sizes(typing, model.times, DEVELOPERS)
    alone = found[0].outcomes.p50
    machine = f"Measured on {about['machine']}, {about['date']}, TurboPilot {about['version']}.\n\n"
    parts = {
        "hour": markdown(["an hour of typing", model.name], hour_rows(hour_of(typing, alone))),
        "times": machine + markdown(TIMES, time_rows(records)),
        "check": markdown(CHECKED, checked_rows(records), 4),
        "affinity": markdown(BOUND, bound_rows(records), 2),
        "sizes": f"Model: {model.name}, one thread for each replica; {TYPING:.0%} of the developers type; the p95 is "
        f"at most {SLOWER:g} × that of one developer alone.\n\n" + markdown(SIZED, size_rows(found), 0),
    }  # fmt: skip
    text = PAGE.read_text("utf-8")
    for name, part in parts.items():
        begin, end = (
            f"<!-- scale {name}: scripts/simulate_scale --write-docs -->\n",
            "<!-- end -->\n",
        )
        before, found_begin, rest = text.partition(begin)
        if not found_begin:
            raise SystemExit(f"{PAGE}: no line {begin.strip()}")
        text = before + begin + part + end + rest.partition(end)[2]
    PAGE.write_text(text, "utf-8")


def simulated_rows(scenarios: Sequence[Scenario], record: EngineRecord) -> Rows:
    """Run scenarios; return a row for each."""
    typing = record.typing()
    return [
        [f"{s.typists:,}", f"{s.replicas:,}", s.policy, *cells(simulate(s, typing, record.times))]
        for s in scenarios
    ]
