#!/usr/bin/env python3
"""Simulate developers who type, in front of replicas of our engine behind the router of `serve --upstream`.

    scripts/simulate_scale --typists 40 --replicas 1,4,10        # all policies: affinity, random, round robin, …
    scripts/simulate_scale --developers 1,10,100,1000            # how many replicas they need
    scripts/simulate_scale --check                               # real servers against the simulation, 5 minutes
    scripts/simulate_scale --check --model MODEL.gguf --write-docs

The developers replay the recorded typing session (data/typing_trace.json). Step times come from data/scale.json, which
--check measures: prefill, decoding by the number of sequences, and HTTP. --check then starts 1 to 4 servers with one
thread each and replays the same requests at real time: with a fake model of fixed step times, because replicas that
compute share the processor's cores; with the bundled model; and with MODEL. Other step times: --prefill and --decode,
for example from `turbopilot bench` on your GPU.

The simulation is deterministic. Exit code 1: with 4 replicas and 16 developers, less than 0.9 × of the share of prompt
tokens was cached that one replica has cached, in the simulation or in a replay.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scale.engines import EngineRecord, load, loads, measure, save, subjects
from scale.policy import AFFINITY, POLICIES
from scale.report import (
    BOUND,
    CHECKED,
    OUTCOMES,
    SIZED,
    TIMES,
    bound_rows,
    checked_rows,
    show,
    simulated_rows,
    size_rows,
    time_rows,
    write_docs,
)
from scale.simulation import TIES, Scenario, simulate
from scale.sizing import TYPING, sizes

from turbopilot import __version__
from turbopilot.base.machine import cpu_name, usable_cores

LEAST = 0.9  # share of cached tokens with 4 replicas, as a multiple of that with one


def numbers(text: str) -> tuple[int, ...]:
    found = tuple(int(part.replace("_", "")) for part in text.split(","))
    if min(found) < 1:
        raise argparse.ArgumentTypeError("give numbers from 1 on, such as 1,10,100")
    return found


def check(model: Path | None, seconds: float) -> tuple[dict[str, Any], list[EngineRecord]]:
    """Measure all subjects and save the results."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    records = [measure(s, loads(s.name, seconds), say) for s in subjects(model)]
    machine = f"{cpu_name()}, {usable_cores()} cores"
    about = {"machine": machine, "date": str(date.today()), "version": __version__,
             "python": platform.python_version(), "seconds": seconds}  # fmt: skip
    return about, records


def is_bound_kept(records: Sequence[EngineRecord]) -> bool:
    """Return whether enough is cached with 4 replicas, measured and simulated."""
    shares = [(row[2], row[3]) for row in bound_rows(records) if AFFINITY in row[1]]
    return all(float(share) >= LEAST for pair in shares for share in pair)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--typists", type=numbers, default=(16,), help="developers who type at once"
    )
    parser.add_argument("--replicas", type=numbers, default=(1, 2, 4))
    parser.add_argument("--policy", action="append", choices=POLICIES, help="default: all")
    parser.add_argument("--tie", choices=TIES, default=TIES[0], help="what the router knows")
    parser.add_argument(
        "--seconds", type=float, help="simulated (120) or replayed (16) time of each run"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--developers", type=numbers, help="find the replicas for these numbers")
    parser.add_argument("--typing", type=float, default=TYPING, help="share of them that types")
    parser.add_argument("--price", type=float, help="price of a replica's hour, for --developers")
    parser.add_argument("--prefill", type=float, help="prompt tokens per second of a replica")
    parser.add_argument("--decode", help="milliseconds of a step with 1,2,3 … sequences")
    parser.add_argument("--check", action="store_true", help="measure real servers")
    parser.add_argument("--model", type=Path, help="with --check: a further GGUF to measure")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/scale.md and its plot"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def with_times(record: EngineRecord, args: argparse.Namespace) -> EngineRecord:
    """Replace measured step times by those of the command line."""
    times = record.times
    if args.prefill:
        times = replace(times, prefill_token=1 / args.prefill, prefill=0.0)
    if args.decode:
        steps = tuple(float(ms) / 1000 for ms in args.decode.split(","))
        times = replace(times, decode=steps)
    return replace(record, times=times)


def report_sizes(record: EngineRecord, args: argparse.Namespace) -> None:
    found = sizes(record.typing(), record.times, args.developers, args.typing)
    if args.json:
        print(json.dumps([asdict(s) for s in found]))
        return
    show(
        f"{record.name}: replicas for developers of whom {args.typing:.0%} type",
        SIZED,
        size_rows(found),
    )
    if args.price:
        for s in found:
            cost = s.replicas * 730 * args.price
            print(
                f"{s.developers:,} developers: {cost:,.0f} a month, {cost / s.developers:,.2f} each"
            )


def report_runs(record: EngineRecord, args: argparse.Namespace) -> None:
    total = args.seconds or 120.0
    scenarios = [
        Scenario(t, n, p, total, total / 4, args.tie, args.seed)
        for t in args.typists
        for n in args.replicas
        for p in args.policy or POLICIES
    ]
    if args.json:
        typing = record.typing()
        print(
            json.dumps([asdict(s) | asdict(simulate(s, typing, record.times)) for s in scenarios])
        )
        return
    show(
        f"{record.name}, simulated",
        ["typing", "replicas", "routing", *OUTCOMES],
        simulated_rows(scenarios, record),
    )


def main() -> None:
    args = parsed()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running servers
    if args.check:
        about, records = check(args.model, args.seconds or 16.0)
        if args.json:
            print(json.dumps({"about": about, "engines": [asdict(r) for r in records]}))
        else:
            show("step times", TIMES, time_rows(records))
            for record in records:
                rows = [row[1:] for row in checked_rows([record])]
                show(f"{record.name}: measured/simulated", CHECKED[1:], rows)
            show("16 developers: 4 replicas against 1", BOUND, bound_rows(records))
        if args.write_docs:
            save(records, about)
            write_docs(about, records)
        sys.exit(0 if is_bound_kept(records) else 1)
    about, records = load()
    if args.write_docs:
        write_docs(about, records)
        return
    record = with_times(records[-1], args)
    if args.developers:
        report_sizes(record, args)
    else:
        report_runs(record, args)


if __name__ == "__main__":
    main()
