#!/usr/bin/env python3
"""Measure the time that `serve --upstream` adds to an engine's.

    python scripts/bench_upstream.py
    python scripts/bench_upstream.py --requests 500 --tokens 256

A fake engine in its own process answers with a fixed text as fast as it can. A client in a third process sends the same
requests to it and to a front before it, by turns. Targets: 2 ms for a request, measured with one token, and 0.1 ms for
each further token of a stream. Results are medians and their differences. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading

from bench import fixed_engine
from bench_http import over_http
from rich.console import Console
from rich.table import Table

REQUEST_MS, TOKEN_MS = 2.0, 0.1
PROMPT = "import argparse\n\n\ndef parse_args():\n    parser = argparse.ArgumentParser()\n    " * 8


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    from serve.http.app import create_app
    from serve.http.server import HttpServer, bind
    from serve.models.upstream_loading import make_upstream_pool
    from serve.settings import ServerOptions, TextOptions
    from serve.upstream.address import EngineAddress
    from serve.upstream_options import UpstreamOptions
    from turbopilot.app.vocabulary import resolve_vocabulary
    from turbopilot.base.progress import Reporter

    ours, theirs = multiprocessing.Pipe()
    engine = multiprocessing.get_context("spawn").Process(
        target=fixed_engine.serve, args=(theirs,), daemon=True
    )
    engine.start()
    port = ours.recv()
    options = ServerOptions(
        resolve_vocabulary("demo", Reporter()),
        text=TextOptions(ends_loops=False),
        upstream=UpstreamOptions((EngineAddress("127.0.0.1", port),)),
    )
    pool, _ = make_upstream_pool(options, lambda _: None)
    with pool.use(""):
        server = HttpServer(create_app(pool), bind("127.0.0.1", 0), threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()

    def seconds(n_tokens: int) -> tuple[float, float]:
        """Return the median seconds of a streamed request to the engine, and to the front."""
        raw = {"prompt": PROMPT, "n_predict": n_tokens}
        # A text at the cursor that the fixed text does not continue would be asked for twice.
        body = {"prompt": PROMPT, "max_tokens": n_tokens, "temperature": 0, "stream": True}
        alone, _ = over_http(port, args.requests, dict(raw), "/completion")
        front, _ = over_http(server.port, args.requests, {**body, "logit_bias": {"0": 1}})
        return alone, front

    one, many = [], []
    for _ in range(args.rounds):
        one.append(seconds(1))
        many.append(seconds(args.tokens))
    server.stop()
    thread.join()
    pool.close()
    engine.kill()

    (alone_1, front_1), (alone_n, front_n) = (
        tuple(statistics.median(values) for values in zip(*rounds, strict=True))
        for rounds in (one, many)
    )
    over = 1000 * (front_1 - alone_1)
    token = 1000 * ((front_n - front_1) - (alone_n - alone_1)) / (args.tokens - 1)
    table = Table(title=f"medians of {args.rounds} × {args.requests} requests, ms")
    for title in ("", "engine", "front", "added", "target"):
        table.add_column(title, justify="left" if not title else "right")
    rows = (
        ("1 token", alone_1, front_1, over, f"≤ {REQUEST_MS}"),
        (f"each of {args.tokens} tokens", alone_n / args.tokens, front_n / args.tokens, token, f"≤ {TOKEN_MS}"),
    )  # fmt: skip
    for name, alone, front, added, target in rows:
        table.add_row(name, f"{1000 * alone:.3f}", f"{1000 * front:.3f}", f"{added:.3f}", target)
    Console().print(table)
    return int(over > REQUEST_MS or token > TOKEN_MS)


if __name__ == "__main__":
    sys.exit(main())
