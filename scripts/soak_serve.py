#!/usr/bin/env python3
"""Load a server for minutes with good and bad requests, and check its responses, memory and latency.

    python scripts/soak_serve.py                                  # the bundled model, 64 connections, 10 minutes
    python scripts/soak_serve.py MODEL.gguf --minutes 2 --connections 16
    python scripts/soak_serve.py --port 18080 --pid PID           # a server that runs already; it is not stopped

Clients request whole completions and streams, disconnect before the end, read slowly, and send invalid requests and
prompts that are too long. The checks are:

- all responses are complete, with a documented status (200, 400, 413, 503 with Retry-After, 504)
- resident memory does not grow after the first minute
- 99 of 100 responses of /health take less than 50 ms
- no requests run or wait at the end

Exit code 1: a check failed.
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

HEALTH_MS = 50.0  # limit of the 99th percentile
SETTLED = 60.0  # seconds after which memory must not grow
PARTS = 5  # parts of the time after that; the last is compared with the first
# Allowed growth of resident memory: a factor, or bytes if that is more. Cached completions gradually fill 10 MB.
GROWTH, ROOM = 1.05, 16e6
FREED = 30.0  # seconds after the last request in which all requests must end


@dataclass(frozen=True)
class Check:
    """One check: the measured value, the limit, and whether it was kept."""

    name: str
    found: str
    promised: str
    kept: bool


def checks(soak: Soak, rss: list[tuple[float, int]], left: str) -> list[Check]:
    """Compare the results with the limits."""
    health = 1000 * percentile(soak.health, 0.99) if soak.health else 0.0
    slowest = 1000 * max(soak.health, default=0.0)
    broken = "; ".join(f"{k} × {n}" for k, n in soak.broken.most_common(5)) or "none"
    found = [
        Check("wrong responses", broken, "none", not soak.broken),
        Check("/health, p99", f"{health:.1f} ms", f"< {HEALTH_MS:.0f} ms", 0 < health < HEALTH_MS),
        Check("/health, slowest", f"{slowest:.1f} ms of {len(soak.health)}", "", True),
        Check("requests still running or waiting", left or "none", "none", not left),
    ]
    settled = [n for when, n in rss if when >= SETTLED]
    if len(settled) >= PARTS:
        # Medians: a single sample may include request bodies of 8 MB.
        n = len(settled) // PARTS
        first, last = statistics.median(settled[:n]), statistics.median(settled[-n:])
        kept = last <= max(GROWTH * first, first + ROOM)
        what = f"{first / 1e6:.0f} MB, at the end {last / 1e6:.0f}, peak {max(settled) / 1e6:.0f}"
        found.append(Check("resident memory", what, "flat", kept))
    elif rss:
        found.append(
            Check("resident memory", f"{rss[-1][1] / 1e6:.0f} MB", "(run too short)", True)
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
    table = Table("request", "count", "responses", title="load")
    for what, n in sorted(soak.done.items()):
        answers = ", ".join(
            f"{status} × {k}" for (w, status), k in sorted(soak.statuses.items()) if w == what
        )
        table.add_row(what, str(n), answers)
    console.print(table)
    table = Table("check", "measured", "limit", "verdict", title="checks")
    for check in found:
        table.add_row(check.name, check.found, check.promised, "kept" if check.kept else "BROKEN")
    console.print(table)


@contextlib.contextmanager
def server_of(args: argparse.Namespace) -> Iterator[Running]:
    if args.port:
        yield Running(args.port, args.pid or 0)
        return
    (ours,) = found_servers(None, None)
    # A small prefix cache is full within the first minute; one of the default 256 MiB would look like a leak.
    with started(ours, args.model, args.threads, ("--prefix-cache", "4MiB")) as running:
        yield running


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", type=Path, help="model file (default: the bundled model)"
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--port", type=int, help="port of a running server, to use instead of a new one"
    )
    parser.add_argument("--pid", type=int, help="process id of that server, to measure its memory")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running server
    if sys.platform != "linux":
        parser.error("this test needs Linux: it reads memory from /proc")
    try:
        with server_of(args) as running:
            soak, found = asyncio.run(soak_it(running, args))
    except NotStarted as e:
        raise SystemExit(str(e)) from None
    show(soak, found)
    raise SystemExit(0 if all(c.kept for c in found) else 1)


if __name__ == "__main__":
    main()
