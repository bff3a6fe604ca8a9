"""Clients of soak_serve: their requests, and the counts of responses and errors."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.client import Unframed, connected, fetch, request_bytes

# Status codes that the server documents. A 503 must have a Retry-After header.
DOCUMENTED = {200, 400, 413, 503, 504}
TOO_LARGE = 9 * 2**20  # bytes; the server takes 8 MiB
PATIENCE = 300.0  # seconds for a response; only a server that has lost a request takes longer
_HEALTH_EVERY = 0.05
_TEXT = "def area(width, height):\n    return width * height\n\n\nclass Box:\n    def __init__(self):\n        "
_BAD: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[1, 2]",
    b'"prompt"',
    b"\xff\xfe",
    b'{"prompt": 7}',
    b'{"max_tokens": 4}',
    b'{"prompt": "x", "max_tokens": "many"}',
    b'{"prompt": "x", "temperature": -1}',
    b'{"prompt": "x", "n": 1000}',
    b'{"prompt": ' + b"[" * 2000,
)


@dataclass
class Soak:
    """Results so far.

    Attributes:
        done: kind of request → count.
        statuses: (kind of request, status of the response) → count.
        broken: description of a failure → count.
        health: seconds of each response of /health.
    """

    port: int
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    health: list[float] = field(default_factory=list)

    def saw(self, what: str, status: int, headers: Mapping[str, str], wanted: set[int]) -> None:
        """Record a response, and a failure if its status is not in `wanted` or its headers are incomplete."""
        self.statuses[what, status] += 1
        if status not in DOCUMENTED or status not in wanted:
            self.broken[f"{what}: status {status}"] += 1
        if status == 503 and not headers.get("retry-after", "").isdigit():
            self.broken[f"{what}: 503 without Retry-After"] += 1


_GOOD = {200, 503, 504}
Work = Callable[[Soak, random.Random], Awaitable[None]]


def _body(rng: random.Random, **fields: Any) -> bytes:
    start = rng.randrange(len(_TEXT) - 20)
    body = {
        "prompt": f"# {rng.randrange(50)}\n" + _TEXT[start:] * rng.randint(1, 6),
        "max_tokens": rng.randint(1, 48),
        "temperature": rng.choice((0, 0.2, 0.8)),
        **fields,
    }
    return json.dumps(body).encode()


async def _whole(soak: Soak, rng: random.Random) -> None:
    status, body, headers = await fetch(
        soak.port, "/v1/completions", method="POST", body=_body(rng)
    )
    soak.saw("whole", status, headers, _GOOD)
    if status == 200 and not json.loads(body)["choices"][0]["finish_reason"]:
        soak.broken["whole: no finish_reason"] += 1


async def _stream(soak: Soak, rng: random.Random) -> None:
    status, body, headers = await fetch(
        soak.port, "/v1/completions", method="POST", body=_body(rng, stream=True)
    )
    soak.saw("stream", status, headers, _GOOD)
    if status == 200 and b"data: [DONE]" not in body and b'"error"' not in body:
        soak.broken["stream: no [DONE]"] += 1


async def _leave(soak: Soak, rng: random.Random) -> None:
    """Close the connection before or within the response."""
    async with connected(soak.port) as (reader, writer):
        body = _body(rng, stream=rng.random() < 0.7, max_tokens=200)
        writer.write(request_bytes("POST", "/v1/completions", body))
        await writer.drain()
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.3)
        else:
            await reader.read(1 + rng.randrange(400))


async def _slow(soak: Soak, rng: random.Random) -> None:
    """Read a stream to its end, at most 256 bytes every 20 ms."""
    async with connected(soak.port) as (reader, writer):
        writer.write(request_bytes("POST", "/v1/completions", _body(rng, stream=True)))
        answer = Unframed()
        while not answer.complete:
            answer.feed(await reader.read(256))
            await asyncio.sleep(0.02)
        soak.saw("slow", answer.status, answer.headers, _GOOD)


async def _long(soak: Soak, rng: random.Random) -> None:
    """Send a prompt many times the context size; the server must truncate or reject it."""
    body = _body(rng, prompt=_TEXT * rng.randint(300, 1500), max_tokens=4)
    status, _, headers = await fetch(soak.port, "/v1/completions", method="POST", body=body)
    soak.saw("long", status, headers, _GOOD | {400, 413})


async def _bad(soak: Soak, rng: random.Random) -> None:
    body = rng.choice(_BAD)
    status, _, headers = await fetch(soak.port, "/v1/completions", method="POST", body=body)
    soak.saw("bad", status, headers, {400})


async def _large(soak: Soak, rng: random.Random) -> None:
    body = b'{"prompt": "' + b"x" * TOO_LARGE + b'"}'
    status, _, headers = await fetch(soak.port, "/v1/completions", method="POST", body=body)
    soak.saw("large", status, headers, {413})


_MIX: tuple[tuple[str, int, Work], ...] = (
    ("whole", 25, _whole),
    ("stream", 25, _stream),
    ("leave", 25, _leave),
    ("slow", 8, _slow),
    ("long", 4, _long),
    ("bad", 12, _bad),
    ("large", 1, _large),
)


async def load(soak: Soak, n_connections: int, seconds: float) -> None:
    """Keep `n_connections` busy for `seconds`, then wait for the requests that still run."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    polling = asyncio.create_task(_poll_health(soak))
    clients = [
        _client(soak, random.Random(f"{soak.seed} {i}"), until) for i in range(n_connections)
    ]
    await asyncio.gather(*clients)
    polling.cancel()


async def _client(soak: Soak, rng: random.Random, until: float) -> None:
    loop = asyncio.get_running_loop()
    names, weights, work = zip(*_MIX, strict=True)
    while loop.time() < until:
        (i,) = rng.choices(range(len(names)), weights)
        soak.done[names[i]] += 1
        try:
            await asyncio.wait_for(work[i](soak, rng), PATIENCE)
        except asyncio.TimeoutError:
            soak.broken[f"{names[i]}: no response in {PATIENCE:.0f} s"] += 1
        except (OSError, ValueError, KeyError) as e:
            soak.broken[f"{names[i]}: {e!r}"] += 1
        await asyncio.sleep(rng.expovariate(20))


async def _poll_health(soak: Soak) -> None:
    """Poll /health on one connection that stays open."""
    request = request_bytes("GET", "/health", keep=True)
    while True:
        try:
            async with connected(soak.port) as (reader, writer):
                while True:
                    began = time.perf_counter()
                    writer.write(request)
                    answer = Unframed()
                    while not answer.complete:
                        answer.feed(await reader.read(65536))
                    soak.health.append(time.perf_counter() - began)
                    soak.saw("health", answer.status, answer.headers, {200})
                    await asyncio.sleep(_HEALTH_EVERY)
        except OSError as e:
            soak.broken[f"health: {e!r}"] += 1
            await asyncio.sleep(1)


async def left_over(port: int, patience: float) -> str:
    """Wait until the server has no requests, and return ""; after `patience` seconds return the counts of the rest."""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while True:
        left = await _busy(port)
        if not left or loop.time() > until:
            return left
        await asyncio.sleep(0.1)


_GAUGE = re.compile(
    r"^turbopilot_requests_(running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE
)


async def _busy(port: int) -> str:
    _, health, _ = await fetch(port, "/health")
    requests = json.loads(health).get("requests", 0)
    found = [f"{requests} requests"] if requests else []
    status, metrics, _ = await fetch(port, "/metrics")
    if status == 200:
        gauges = _GAUGE.findall(metrics.decode())
        found += [f"{value} {name}" for name, value in gauges if float(value)]
    return ", ".join(found)
