#!/usr/bin/env python3
"""Load a server for minutes with everything that clients do, good and bad, and watch that it stays well.

    python scripts/soak_serve.py                                  # the bundled model, 64 connections, 10 minutes
    python scripts/soak_serve.py MODEL.gguf --minutes 2 --connections 16
    python scripts/soak_serve.py --port 18080 --pid PID           # a server that runs already; it is not ended

Connections stream and do not, leave in the middle, read slowly, send prompts that are too long and requests that are
wrong. Promised is: only the documented statuses (200, 400, 413, 503 with Retry-After, 504), and every answer whole;
memory that is flat after the first minute; /health within 50 ms for 99 of 100; and at the end nothing that still
runs or waits. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.process_memory import memory
from bench.scenarios import percentile
from bench.servers import NotStarted, Running, found_servers, started
from bench.soak import Soak, left_over, load
from rich.console import Console
from rich.table import Table

HEALTH_MS = 50.0  # of 99 in 100
SETTLED = 60.0  # seconds until memory has to be flat
PARTS = 5  # of the time after that; the first is compared with the last
# Of resident memory between them: a share, or bytes where that is more. Answers that are known fill 10 MB by and by.
GROWTH, ROOM = 1.05, 16e6
FREED = 30.0  # seconds after the last request until everything has to be free


@dataclass(frozen=True)
class Check:
    """A promise."""

    name: str
    found: str
    promised: str
    kept: bool


def checks(soak: Soak, rss: list[tuple[float, int]], left: str) -> list[Check]:
    """What was promised, and what was found."""
    health = 1000 * percentile(soak.health, 0.99) if soak.health else 0.0
    slowest = 1000 * max(soak.health, default=0.0)
    broken = "; ".join(f"{k} × {n}" for k, n in soak.broken.most_common(5)) or "none"
    found = [
        Check("answers that should not be", broken, "none", not soak.broken),
        Check("/health, p99", f"{health:.1f} ms", f"< {HEALTH_MS:.0f} ms", 0 < health < HEALTH_MS),
        Check("/health, slowest", f"{slowest:.1f} ms of {len(soak.health)}", "", True),
        Check("left running or waiting", left or "nothing", "nothing", not left),
    ]
    settled = [n for when, n in rss if when >= SETTLED]
    if len(settled) >= PARTS:
        # Medians: a body of 8 MB more or less at the moment of a look says nothing.
        n = len(settled) // PARTS
        first, last = statistics.median(settled[:n]), statistics.median(settled[-n:])
        kept = last <= max(GROWTH * first, first + ROOM)
        what = (
            f"{first / 1e6:.0f} MB, at the end {last / 1e6:.0f}, at most {max(settled) / 1e6:.0f}"
        )
        found.append(Check("resident memory", what, "flat", kept))
    elif rss:
        found.append(
            Check("resident memory", f"{rss[-1][1] / 1e6:.0f} MB", "(too short to say)", True)
        )
    return found


async def soak_it(running: Running, args: argparse.Namespace) -> tuple[Soak, list[Check]]:
    soak = Soak(running.port, args.seed)
    rss: list[tuple[float, int]] = []

    async def look() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            if n := memory(running.pid).rss:
                rss.append((loop.time() - began, n))
            await asyncio.sleep(1)

    looking = asyncio.create_task(look())
    await load(soak, args.connections, 60 * args.minutes)
    looking.cancel()
    left = await left_over(running.port, FREED)
    return soak, checks(soak, rss, left)


def show(soak: Soak, found: list[Check]) -> None:
    console = Console(width=max(100, Console().width))
    table = Table("what clients did", "times", "answered", title="load")
    for what, n in sorted(soak.done.items()):
        answers = ", ".join(
            f"{status} × {k}" for (w, status), k in sorted(soak.statuses.items()) if w == what
        )
        table.add_row(what, str(n), answers)
    console.print(table)
    table = Table("promise", "found", "promised", "verdict", title="promises")
    for check in found:
        table.add_row(check.name, check.found, check.promised, "kept" if check.kept else "BROKEN")
    console.print(table)


@contextlib.contextmanager
def server_of(args: argparse.Namespace) -> Iterator[Running]:
    if args.port:
        yield Running(args.port, args.pid or 0)
        return
    (ours,) = found_servers(None, None)
    # A cache that is full within the first minute: else its filling, as promised up to 256 MiB, would look like a leak.
    with started(ours, args.model, args.threads, ("--prefix-cache", "4MiB")) as running:
        yield running


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help="default: the bundled one")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, help="of a server that runs already")
    parser.add_argument("--pid", type=int, help="of that server, to watch its memory")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a server that was started is ended
    if sys.platform != "linux":
        parser.error("memory is looked at by Linux's means alone")
    try:
        with server_of(args) as running:
            soak, found = asyncio.run(soak_it(running, args))
    except NotStarted as e:
        raise SystemExit(str(e)) from None
    show(soak, found)
    raise SystemExit(0 if all(c.kept for c in found) else 1)


if __name__ == "__main__":
    main()
