#!/usr/bin/env python3
"""Measure what viewers of `/status/stream` cost the engine.

    python scripts/bench_status.py                    # the bundled model, whose steps are the shortest
    python scripts/bench_status.py MODEL.gguf --seconds 10 --rounds 12

One completion after the other runs in this process, which also serves the viewers. The time of a step is measured in
turns without and with viewers, and the result is the median ratio of neighbouring turns. The viewers run in a process
of their own: on a real server they are on other machines, so the model leaves one processor core to them. Target: 20
viewers cost a step at most 1 %. Exit code 1: the target was missed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from serve.status.server_status import MOST_STREAMED

MOST_COST = 0.01
REQUEST = b"GET /status/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def watch(port: int, n: int, tell: Connection) -> None:
    """Read `n` streams until `tell` has a message; report the bytes read per viewer and second."""
    selector = selectors.DefaultSelector()
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(REQUEST)
        if not s.recv(65536).startswith(b"HTTP/1.1 200"):
            raise SystemExit("a viewer was refused")
        selector.register(s, selectors.EVENT_READ)
    tell.send("ready")
    selector.register(tell, selectors.EVENT_READ, "stop")
    began, n_bytes = time.perf_counter(), 0
    while True:
        for key, _ in selector.select():
            if key.data == "stop":
                tell.send(n_bytes / n / (time.perf_counter() - began))
                return
            n_bytes += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]


@contextmanager
def viewers(port: int, n: int) -> Iterator[list[float]]:
    """Run `n` viewers in a process; the list then has the bytes per viewer and second."""
    rates: list[float] = []
    if not n:
        yield rates
        return
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=watch, args=(port, n, theirs))
    process.start()
    assert ours.recv() == "ready"
    yield rates
    ours.send("stop")
    rates.append(ours.recv())
    process.join()


def fill(port: int) -> None:
    """Send as many requests as each event of the stream shows, so that it has its full size."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(MOST_STREAMED):
        body = json.dumps({"prompt": "def f(", "max_tokens": 2, "temperature": 2})
        connection.request("POST", "/v1/completions", body, {"User-Agent": "bench_status/1"})
        connection.getresponse().read()
    connection.close()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()

    from serve.engine import Engine, EngineOptions
    from serve.http.app import create_app
    from serve.http.server import HttpServer, bind
    from serve.llama import load
    from serve.models import ModelPool, PooledModel
    from serve.models.completion import Completion
    from serve.models.loading import host
    from serve.request import SamplingParams
    from serve.settings import ModelOptions, TextOptions
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.base.machine import usable_cores
    from turbopilot.base.progress import Reporter

    options = ModelOptions(ctx=512, n_seq=2, threads=max(1, usable_cores() - 1), tunes=False)
    decoder, _ = load(resolve_gguf(args.model, Reporter()), options)
    engine = Engine(decoder, EngineOptions(n_slots=2, drafts=False, prefix_cache_bytes=2**28))
    service = host(engine, text=TextOptions(heals=False, ends_loops=False), free=decoder.close)
    pool = ModelPool([PooledModel(service.model, 1, lambda: service)], memory=1)
    with pool.use(""):
        server = HttpServer(create_app(pool), bind("127.0.0.1", 0), threads=8)
    serving = threading.Thread(target=server.run)
    serving.start()
    fill(server.port)
    is_over = False

    def compute() -> None:
        sampling = SamplingParams(temperature=2.0, top_p=1.0)
        while not is_over:
            service.start(Completion(("def f(",), 256, sampling=sampling), whole=True).collect()

    computing = threading.Thread(target=compute)
    computing.start()

    def turn(n: int) -> tuple[float, float, float]:
        """Return the seconds of a step, the processor seconds of this process per second, and bytes per viewer."""
        with viewers(server.port, n) as rates:
            time.sleep(0.5)
            steps, began, used = service.metrics.steps, time.perf_counter(), time.process_time()
            time.sleep(args.seconds)
            seconds = time.perf_counter() - began
            found = (
                seconds / (service.metrics.steps - steps),
                (time.process_time() - used) / seconds,
            )
        return *found, rates[0] if rates else 0.0

    turn(0)
    rounds = []
    for i in range(args.rounds):
        order = (0, args.viewers) if i % 2 else (args.viewers, 0)  # neither is always first
        results = {n: turn(n) for n in order}
        rounds.append((results[0], results[args.viewers]))
    is_over = True
    computing.join()
    pool.close()
    server.stop()
    serving.join()

    ratio = statistics.median(with_[0] / without[0] for without, with_ in rounds)
    more = statistics.median(with_[1] - without[1] for without, with_ in rounds)
    table = Table(title=f"{args.viewers} viewers, medians of {args.rounds} × {args.seconds:g} s")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row(
        "step without viewers", f"{1000 * statistics.median(r[0][0] for r in rounds):.3f} ms"
    )
    table.add_row(
        "step with viewers", f"{1000 * statistics.median(r[1][0] for r in rounds):.3f} ms"
    )
    table.add_row("cost of a step (target ≤ 1 %)", f"{100 * (ratio - 1):+.2f} %")
    table.add_row("processor time of the server", f"{1000 * more:+.1f} ms per second")
    table.add_row(
        "sent to each viewer", f"{statistics.median(r[1][2] for r in rounds) / 1000:.1f} kB/s"
    )
    Console().print(table)
    return int(ratio - 1 > MOST_COST)


if __name__ == "__main__":
    sys.exit(main())
