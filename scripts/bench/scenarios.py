"""Benchmark scenarios: each sends requests to a running server and returns numbers by name."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from bench.client import Answer, complete, greedy
from bench.player import play
from bench.trace import DATA, Trace, debounced, load_trace
from bench.workload import Sizes, Texts

Found: TypeAlias = Mapping[str, float]

# Program of a busy process, which takes all of one core and no memory bandwidth.
_BUSY = "while True: pass"
_PAUSE = 0.2  # seconds between the requests of scenario `beside`


@dataclass(frozen=True)
class Ran:
    """One run of a scenario on one server: numbers by name, and the completions for comparison."""

    found: Found
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """Scenario with its prepared requests, which are the same for every server."""

    name: str
    run: Callable[[int], Awaitable[Ran]]


@dataclass(frozen=True)
class Measure:
    """Number that a scenario returns.

    Attributes:
        key: name of the number in `Ran.found`.
        title: row of the table, with the unit.
        less: whether a lower number is better.
        target: bound for the ratio of our number to the best of the others: the largest ratio if less is better,
            else the smallest.
    """

    key: str
    title: str
    less: bool
    target: float | None = None


MEASURES: Mapping[str, tuple[Measure, ...]] = {
    "one": (
        Measure("tokens_per_second", "tokens/s after the first", less=False, target=1.0),
        Measure("first_ms", "first token, ms", less=True, target=1.0),
        Measure("tokens", "tokens", less=False),
    ),
    "eight": (
        Measure("tokens_per_second", "tokens/s of all", less=False, target=1.05),
        Measure("p50_ms", "latency p50, ms", less=True),
        Measure("p95_ms", "latency p95, ms", less=True, target=1.0),
        Measure("tokens", "tokens", less=False),
    ),
    "sixteen": (
        Measure("tokens_per_second", "tokens/s of all", less=False, target=1.05),
        Measure("p50_ms", "latency p50, ms", less=True),
        Measure("p95_ms", "latency p95, ms", less=True, target=1.0),
        Measure("tokens", "tokens", less=False),
    ),
    "sliding": (
        Measure("median_ms", "new line, median, ms", less=True, target=0.5),
        Measure("p95_ms", "new line, p95, ms", less=True),
        Measure("cached", "share of the prompt in the cache", less=False),
        Measure("tokens", "tokens", less=False),
    ),
    "repository": (
        Measure("median_ms", "new file, median, ms", less=True, target=1.0),
        Measure("p95_ms", "new file, p95, ms", less=True),
        Measure("cached", "share of the prompt in the cache", less=False),
        Measure("tokens", "tokens", less=False),
    ),
    "shared": (
        Measure("seconds", "all requests, s", less=True),
        Measure("tokens_per_second", "tokens/s of all", less=False, target=1.2),
        Measure("tokens", "tokens", less=False),
    ),
    "beside": (
        Measure("idle_ms", "idle machine, median, ms", less=True, target=1.0),
        Measure("beside_ms", "beside busy processes, median, ms", less=True, target=1.0),
        Measure("worst_ms", "beside busy processes, worst, ms", less=True, target=1.0),
        Measure("times", "median beside them, times idle", less=True),
        Measure("tokens", "tokens", less=False),
    ),
    "typing": (
        Measure("median_ms", "completion median, ms", less=True, target=0.6),
        Measure("p95_ms", "completion p95, ms", less=True, target=0.7),
        Measure("first_ms", "first text median, ms", less=True),
        Measure("seconds", "session, s", less=True),
        Measure("early", "complete before abandoned", less=False),
        Measure("late_ms", "player's largest delay, ms", less=True),
        Measure("tokens", "tokens", less=False),
    ),
}


def measures(scenario: str) -> tuple[Measure, ...]:
    """Return the numbers that a scenario reports."""
    return MEASURES[scenario.removesuffix("-debounced")]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them does not exceed.

    >>> percentile([3, 1, 2, 4], 0.5)
    2
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def prepare(
    names: Sequence[str], model: Path, sizes: Sizes, trace_file: Path = DATA
) -> list[Scenario]:
    """Build the named scenarios with their prompts."""
    texts = Texts(model)
    n_one, n_tokens = sizes.one
    n_clients, n_each = sizes.clients
    n_fresh = n_one + 2 * n_clients * n_each
    fresh = list(islice(texts.fresh(sizes.prompt), n_fresh))
    if len(fresh) < n_fresh:
        raise SystemExit(f"{model}: the corpus has too few texts of {sizes.prompt} tokens")
    shared = texts.shared(*sizes.sharers)
    windows = texts.windows(*sizes.windows)
    repositories = texts.repositories(*sizes.files)
    texts.close()
    queues = [fresh[n_one + c * n_each :][:n_each] for c in range(2 * n_clients)]
    makers: dict[str, Callable[[int], Awaitable[Ran]]] = {
        "one": lambda port: _one(port, fresh[:n_one], n_tokens),
        "eight": lambda port: closed_loop(port, queues[:n_clients], sizes.tokens),
        "sixteen": lambda port: closed_loop(port, queues, sizes.tokens),
        "sliding": lambda port: _in_turn(port, windows, sizes.line_tokens),
        "repository": lambda port: _in_turn(port, repositories, sizes.line_tokens),
        "beside": lambda port: _beside(port, fresh[: sum(sizes.beside)], sizes),
        "shared": lambda port: closed_loop(port, [[p] for p in shared], sizes.tokens),
        "typing": lambda port: _typing(port, load_trace(trace_file)),
        # llama.vim and Copilot's plugins wait about this many milliseconds after a key.
        "typing-debounced": lambda port: _typing(port, debounced(load_trace(trace_file), 75)),
    }
    return [Scenario(name, makers[name]) for name in names]


async def _one(port: int, prompts: Sequence[str], n_tokens: int) -> Ran:
    """Send one streamed request after the other. A completion that ends early counts with its own tokens."""
    answers = [await complete(port, greedy(p, n_tokens, stream=True)) for p in prompts]
    found = {
        "tokens_per_second": statistics.median(_decode_speed(a) for a in answers),
        "first_ms": 1000 * statistics.median(a.first for a in answers),
        "tokens": float(sum(a.n_tokens for a in answers)),
        "prompt_tokens": float(sum(a.n_prompt for a in answers)),
    }
    return Ran(found, tuple(a.text for a in answers))


def _decode_speed(answer: Answer) -> float:
    """Return tokens per second after the first token.

    On a busy machine a short stream may arrive in one read, so that its first token and its end have the same time.
    Then the speed is that of the whole response.
    """
    seconds = answer.seconds - answer.first
    if answer.n_tokens > 1 and seconds > 0:
        return (answer.n_tokens - 1) / seconds
    return answer.n_tokens / answer.seconds


async def closed_loop(port: int, queues: Sequence[Sequence[str]], n_tokens: int) -> Ran:
    """Run clients that send their requests one after the other; without streams, so that every server reports usage."""

    async def client(prompts: Sequence[str]) -> list[Answer]:
        return [await complete(port, greedy(p, n_tokens, stream=False)) for p in prompts]

    began = time.perf_counter()
    answers = [a for each in await asyncio.gather(*map(client, queues)) for a in each]
    seconds = time.perf_counter() - began
    n = sum(a.n_tokens for a in answers)
    latencies = [1000 * a.seconds for a in answers]
    found = {
        "seconds": seconds,
        "tokens_per_second": n / seconds,
        "p50_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "tokens": float(n),
        "prompt_tokens": float(sum(a.n_prompt for a in answers)),
        "cached_tokens": float(sum(a.n_cached for a in answers)),
    }
    return Ran(found, tuple(a.text for a in answers))


async def _in_turn(port: int, prompts: Sequence[str], n_tokens: int) -> Ran:
    """Send one request after the other; the first one fills the cache and is not measured."""
    answers = [await complete(port, greedy(p, n_tokens, stream=False)) for p in prompts][1:]
    latencies = [1000 * a.seconds for a in answers]
    found = {
        "median_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "cached": sum(a.n_cached for a in answers) / max(1, sum(a.n_prompt for a in answers)),
        "tokens": float(sum(a.n_tokens for a in answers)),
    }
    return Ran(found, tuple(a.text for a in answers))


async def _beside(port: int, prompts: Sequence[str], sizes: Sizes) -> Ran:
    """Send short requests with pauses, first on an idle machine, then beside a busy process for each core.

    The first request of each part is not measured.
    """
    n_idle = sizes.beside[0]
    idle = await _paused(port, prompts[:n_idle], sizes.beside_tokens)
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        beside = await _paused(port, prompts[n_idle:], sizes.beside_tokens)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    quiet, loud = ([1000 * a.seconds for a in part[1:]] for part in (idle, beside))
    found = {
        "idle_ms": statistics.median(quiet),
        "beside_ms": statistics.median(loud),
        "worst_ms": max(loud),
        "times": statistics.median(loud) / statistics.median(quiet),
        "tokens": float(sum(a.n_tokens for a in (*idle, *beside))),
    }
    return Ran(found, tuple(a.text for a in (*idle, *beside)))


async def _paused(port: int, prompts: Sequence[str], n_tokens: int) -> list[Answer]:
    """Send one request after the other, with a pause as between the keys of a person who types."""
    answers = []
    for prompt in prompts:
        answers.append(await complete(port, greedy(prompt, n_tokens, stream=True)))
        await asyncio.sleep(_PAUSE)
    return answers


async def _typing(port: int, trace: Trace) -> Ran:
    played = await play(port, trace)
    latencies = [1000 * a.seconds for a in played.answers]
    found = {
        "median_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "first_ms": 1000 * statistics.median(a.first for a in played.answers),
        "seconds": played.seconds,
        "early": float(played.n_early),
        "abandoned": float(played.n_abandoned),
        "late_ms": 1000 * played.latest,
        "tokens": float(sum(a.n_tokens for a in played.answers)),
        "requests": float(len(trace.events)),
    }
    return Ran(found, tuple(a.text for a in played.answers))
