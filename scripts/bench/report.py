"""Results of the serving benchmark, as tables and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.scenarios import Measure, Ran, measures
from bench.servers import OURS, Server

# Python's largest share of a decode step that an editor's user would not notice.
OVERHEAD_TARGETS = {1: 3.0, 8: 6.0}  # sequences → percent of a step


@dataclass
class Results:
    """All runs by scenario, server and name of the settings, in the order of measurement."""

    runs: dict[tuple[str, str, str], list[Ran]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    overhead: dict[str, float] = field(default_factory=dict)

    def add(self, scenario: str, server: str, settings: str, ran: Ran) -> None:
        self.runs.setdefault((scenario, server, settings), []).append(ran)

    def median(self, scenario: str, server: str, settings: str, key: str) -> float:
        """Return the median of a number over the rounds."""
        return statistics.median(self.values(scenario, server, settings, key))

    def values(self, scenario: str, server: str, settings: str, key: str) -> list[float]:
        """Return a number of each round."""
        return [r.found[key] for r in self.runs[scenario, server, settings]]

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(s for s, _, _ in self.runs))

    def ways(self, scenario: str) -> list[tuple[str, str]]:
        """Return each (server, name of the settings) that ran a scenario."""
        return [(server, name) for s, server, name in self.runs if s == scenario]


def machine() -> dict[str, Any]:
    """Describe the date and the machine of the benchmark."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def ratio(measure: Measure, ours: float, others: Sequence[float]) -> float | None:
    """Return the ratio of our number to the best of the others; None if there is nothing to compare.

    >>> ratio(Measure("ms", "", less=True), 50, [100, 200])
    0.5
    """
    if not others:
        return None
    best = min(others) if measure.less else max(others)
    return ours / best if best else None


def verdict(measure: Measure, found: float | None) -> str:
    """Return "kept" or "MISSED"; "" if there is no target or no ratio."""
    if found is None or measure.target is None:
        return ""
    kept = found <= measure.target if measure.less else found >= measure.target
    return "kept" if kept else "MISSED"


def same_texts(results: Results, scenario: str, server: str, settings: str) -> str:
    """Return how many of our completions a server returned too; llama.cpp's rounding depends on the batch."""
    ours = next((r for (s, n, _), r in results.runs.items() if s == scenario and n == OURS), None)
    if not ours:
        return ""
    theirs = results.runs[scenario, server, settings][0].texts
    same = sum(a == b for a, b in zip(ours[0].texts, theirs, strict=True))
    return f"{same} of {len(theirs)}"


def show(results: Results, head: Mapping[str, Any]) -> None:
    """Print a table for each scenario."""
    console = Console(width=max(120, Console().width))
    for key, value in head.items():
        console.print(f"{key}: {value}", highlight=False)
    for scenario in results.scenarios():
        console.print(_table(results, scenario))
    if results.overhead:
        table = Table(
            "sequences",
            "step, ms",
            "Python, µs",
            "share",
            "target",
            "verdict",
            title="overhead",
        )
        for n in sorted(int(k.rpartition("_")[2]) for k in results.overhead if "percent" in k):
            share = results.overhead[f"python_percent_{n}"]
            table.add_row(
                str(n), f"{results.overhead[f'step_ms_{n}']:.2f}", f"{results.overhead[f'python_us_{n}']:.0f}",
                f"{share:.1f} %", f"≤ {OVERHEAD_TARGETS[n]} %", "kept" if share <= OVERHEAD_TARGETS[n] else "MISSED",
            )  # fmt: skip
        console.print(table)
    for failure in results.failures:
        console.print(f"FAILED {failure}", highlight=False)


def _table(results: Results, scenario: str) -> Table:
    ways = results.ways(scenario)
    has_ours = any(server == OURS for server, _ in ways)
    ends = ("ratio", "target", "verdict") if has_ours and len(ways) > 1 else ()
    names = [f"{server}\n{settings}" for server, settings in ways]
    table = Table(scenario, *names, *ends, title=scenario)
    for m in measures(scenario):
        row = [m.title, *(_spread(results.values(scenario, *way, m.key)) for way in ways)]
        if ends:
            found = _ratio_of(results, scenario, m)
            sign = "≤" if m.less else "≥"
            row += [
                "" if found is None or m.target is None else f"{found:.2f}",
                "" if m.target is None else f"{sign} {m.target}",
                verdict(m, found),
            ]
        table.add_row(*row)
    if has_ours:
        table.add_row(
            "completions equal to ours", *(same_texts(results, scenario, *way) for way in ways)
        )
    return table


def _ratio_of(results: Results, scenario: str, m: Measure) -> float | None:
    by_way = {way: results.median(scenario, *way, m.key) for way in results.ways(scenario)}
    ours = [v for (server, _), v in by_way.items() if server == OURS]
    others = [v for (server, _), v in by_way.items() if server != OURS]
    return ratio(m, min(ours) if m.less else max(ours), others) if ours else None


def _spread(values: Sequence[float]) -> str:
    """Return the median, with the range if the values differ."""
    if min(values) == max(values):
        return _number(values[0])
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{_number(middle)}\n({_number(low)}–{_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:,.1f}"


def plain(results: Results, head: Mapping[str, Any], servers: Sequence[Server]) -> dict[str, Any]:
    """Return the results as a value for JSON."""
    return {
        **head,
        "versions": {s.name: s.version for s in servers},
        "runs": [
            {
                "scenario": scenario, "server": server, "settings": settings,
                "medians": {k: results.median(scenario, server, settings, k) for k in runs[0].found},
                "rounds": [dict(r.found) for r in runs],
                "texts_as_ours": same_texts(results, scenario, server, settings),
            }
            for (scenario, server, settings), runs in results.runs.items()
        ],
        "ratios": {
            s: {m.key: {"ratio": r, "target": m.target, "verdict": verdict(m, r)}
                for m in measures(s) if (r := _ratio_of(results, s, m)) is not None}
            for s in results.scenarios()
        },
        "overhead": results.overhead,
        "failures": results.failures,
    }  # fmt: skip


def all_kept(results: Results) -> bool:
    """Return whether nothing failed and no target was missed."""
    verdicts = [
        verdict(m, _ratio_of(results, s, m)) for s in results.scenarios() for m in measures(s)
    ]
    over = [
        n
        for n, most in OVERHEAD_TARGETS.items()
        if results.overhead and results.overhead[f"python_percent_{n}"] > most
    ]
    return not results.failures and "MISSED" not in verdicts and not over
