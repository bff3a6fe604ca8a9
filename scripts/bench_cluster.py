#!/usr/bin/env python3
"""Measure what a Ray cluster adds to requests, and how throughput grows with engines. Needs Ray Serve.

    scripts/test_cluster --co -q >/dev/null       # installs Ray Serve once, into .venv/ray
    .venv/ray/bin/python scripts/bench_cluster.py [--quick] [--json FILE]

The cluster has three nodes on loopback. Its engines sleep a fixed time for each batch instead of computing, so that two
cores are enough for four of them. It measures:

- overhead: an unstreamed and a streamed completion, sent by turns to an engine, to the front before it, and through a
  handle of Ray Serve with its request router; medians and their differences, per request and per token;
- scaling: tokens a second of 1 and of 4 engines with as many clients as they compute at once, and the processor time
  of the front for each token of the 4.

Targets: the front adds at most 2 ms to a request and 0.1 ms to a token; 4 engines have at least 3.6 times the
throughput of one. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.handled_engine import HandledEngine

from tests.cluster.fixed_delay import delayed_role
from tests.cluster.lab import RayLab, ray_lab
from turbopilot.cluster.roles import ENGINE, Size

REQUEST_MS, TOKEN_MS, SCALING = 2.0, 0.1, 3.6
SLOTS = 4  # requests that an engine computes at once
DELAY = 0.02  # seconds for each batch of the engines that are scaled
KEY = {"Authorization": "Bearer secret", "Content-Type": "application/json"}

Seconds = list[float]


class Client:
    """One kept connection to a server."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, n_tokens: int, *, streams: bool, prompt: str = "def f(") -> float:
        """Request a completion; return the seconds that it took."""
        body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "stream": streams})
        began = time.perf_counter()
        self._connection.request("POST", "/v1/completions", body, KEY)
        response = self._connection.getresponse()
        data = response.read()
        seconds = time.perf_counter() - began
        assert response.status == 200, data
        assert not streams or data.count(b'"text"') >= n_tokens, data[-300:]
        return seconds

    def processor_seconds(self) -> float:
        """Return the processor time of the server's process."""
        self._connection.request("GET", "/metrics", headers=KEY)
        lines = self._connection.getresponse().read().decode().splitlines()
        (found,) = (line for line in lines if line.startswith("process_cpu_seconds_total"))
        return float(found.split()[1])


def by_turns(asks: Mapping[str, Callable[[], float]], n: int) -> dict[str, Seconds]:
    """Return the seconds of `n` calls of each function, after some that do not count."""
    found: dict[str, Seconds] = {name: [] for name in asks}
    for i in range(n + 5):
        for name, ask in asks.items():
            seconds = ask()
            if i >= 5:
                found[name].append(seconds)
    return found


def overhead(lab: RayLab, n: int, n_tokens: int) -> dict[str, float]:
    """Return milliseconds per request and per token: of an engine, of the front, and of Ray Serve's handle."""
    from ray import serve

    lab.deploy("overhead", delayed_role(0.0), Size(replicas=1), engine=HandledEngine)
    front = Client(lab.port("overhead"))
    (member,) = lab.engines("overhead").wait_until(bool, 60)
    engine = Client(int(member["url"].rpartition(":")[2]))
    handle = serve.get_deployment_handle(ENGINE, "overhead")
    streamed = handle.options(stream=True)
    body = {"prompt": "def f(", "max_tokens": 1}

    def one_call() -> float:
        began = time.perf_counter()
        handle.complete.remote(body).result()
        return time.perf_counter() - began

    def many_calls() -> float:
        began = time.perf_counter()
        pieces = list(streamed.stream.remote({**body, "max_tokens": n_tokens}))
        assert len(pieces) >= n_tokens
        return time.perf_counter() - began

    plain = by_turns(
        {
            "engine": lambda: engine.ask(1, streams=False),
            "front": lambda: front.ask(1, streams=False),
            "handle": one_call,
        },
        n,
    )
    streams = by_turns(
        {
            "engine": lambda: engine.ask(n_tokens, streams=True),
            "front": lambda: front.ask(n_tokens, streams=True),
            "handle": many_calls,
        },
        max(10, n // 10),
    )
    lab.delete("overhead")
    ms = {f"{name} request": 1000 * statistics.median(s) for name, s in plain.items()}
    for name, s in streams.items():
        ms[f"{name} token"] = 1000 * statistics.median(s) / n_tokens
    return ms


def throughput(lab: RayLab, n_engines: int, seconds: float) -> tuple[float, float]:
    """Return tokens a second of this many engines, and the milliseconds of the front's processor time for a token."""
    name, n_tokens = f"scale-{n_engines}", 50
    lab.deploy(name, delayed_role(DELAY, sequences=SLOTS), Size(replicas=n_engines))
    port = lab.port(name)
    lab.engines(name).wait_until(lambda found: len(found) == n_engines, 60)
    stop, n_done = threading.Event(), [0] * (SLOTS * n_engines)

    def run(i: int) -> None:
        client, n = Client(port), 0
        while not stop.is_set():
            n += 1
            client.ask(n_tokens, streams=True, prompt=f"client {i} request {n}")
            n_done[i] += 1

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(n_done))]
    for thread in threads:
        thread.start()
    time.sleep(2)
    front = Client(port)
    before, began, used = sum(n_done), time.perf_counter(), front.processor_seconds()
    time.sleep(seconds)
    after, ended, used = sum(n_done), time.perf_counter(), front.processor_seconds() - used
    stop.set()
    for thread in threads:
        thread.join()
    lab.delete(name)
    n = (after - before) * n_tokens
    return n / (ended - began), 1000 * used / n


def show(figures: Mapping[str, float]) -> list[str]:
    """Print the figures; return the targets that were missed."""
    table = Table("", "request, ms", "token, ms")
    for name in ("engine", "front", "handle"):
        table.add_row(name, f"{figures[f'{name} request']:.2f}", f"{figures[f'{name} token']:.3f}")
    added = {k: figures[f"front {k}"] - figures[f"engine {k}"] for k in ("request", "token")}
    table.add_row("front adds", f"{added['request']:.2f}", f"{added['token']:.3f}")
    added_by_ray = {k: figures[f"handle {k}"] - figures[f"engine {k}"] for k in added}
    table.add_row("handle adds", f"{added_by_ray['request']:.2f}", f"{added_by_ray['token']:.3f}")
    scaling = figures["4 engines"] / figures["1 engine"]
    console = Console()
    console.print(table)
    console.print(
        f"1 engine: {figures['1 engine']:.0f} tokens/s; 4 engines: {figures['4 engines']:.0f}; {scaling:.2f} times; "
        f"processor time of the front: {figures['front CPU']:.3f} ms a token"
    )
    missed = [
        f"the front adds {added[k]:.3f} ms to a {k} (target: {limit})"
        for k, limit in (("request", REQUEST_MS), ("token", TOKEN_MS))
        if added[k] > limit
    ]
    if scaling < SCALING:
        missed.append(f"4 engines have {scaling:.2f} times the throughput (target: {SCALING})")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, for a try")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    given: Any = parser.parse_args()
    n, seconds = (20, 3.0) if given.quick else (300, 15.0)
    with ray_lab() as lab:
        figures = overhead(lab, n, 100)
        figures["1 engine"], _ = throughput(lab, 1, seconds)
        figures["4 engines"], figures["front CPU"] = throughput(lab, 4, seconds)
    missed = show(figures)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
