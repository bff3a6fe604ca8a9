#!/usr/bin/env python3
"""Measure the time that HTTP, JSON and Flask add to the engine's.

    python scripts/bench_http.py                   # the bundled model
    python scripts/bench_http.py MODEL.gguf --requests 500

The same completion at temperature 0 is requested many times. The engine has it cached and computes nothing, so the
remaining time is that of the layers. The requests go by turns to the service in this process, over HTTP as JSON, and
over HTTP as a stream. The client runs in its own process with plain sockets, like an editor. The results are medians
and their differences. Targets: 1.5 ms for a plain request, 0.1 ms for a streamed token. Exit code 1: a target was
missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN_MS, TOKEN_MS = 1.5, 0.1
# The bundled model repeats this line until `max_tokens`.
PROMPT = "import argparse\n\n\ndef parse_args():\n    parser = argparse.ArgumentParser()\n    "
HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n"


def client(port: int, n: int, path: str, body: dict[str, object], tell: Connection) -> None:
    """Send `n` requests; send the seconds of each and the number of frames of the last response to `tell`."""
    data = json.dumps(body).encode()
    request = HEAD.format(path, len(data)).encode() + data
    seconds: list[float] = []
    connection: socket.socket | None = None
    for _ in range(n):
        if connection is None:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        connection.sendall(request)
        answer, received = b"", b"?"
        while received and not _is_whole(answer):
            received = connection.recv(1 << 16)
            answer += received
        seconds.append(time.perf_counter() - began)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not a completion: {answer[:200]!r}")
        if not received or b"\r\nconnection: close" in answer.lower():
            connection.close()
            connection = None
    tell.send((seconds, answer.count(b"data: {")))


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = next(x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:"))
    return len(body) >= int(length.partition(b":")[2])


def over_http(
    port: int, n: int, body: dict[str, object], path: str = "/v1/completions"
) -> tuple[float, int]:
    """Return the median seconds of a request, and the number of frames of a stream."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=client, args=(port, n, path, body, theirs)
    )
    process.start()
    seconds, frames = ours.recv()
    process.join()
    return statistics.median(seconds), frames


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    from serve.engine import Engine, EngineOptions
    from serve.http.app import create_app
    from serve.http.server import HttpServer, bind
    from serve.llama import load
    from serve.models import ModelPool, PooledModel
    from serve.models.completion import Completion
    from serve.models.service import CompletionService
    from serve.models.status import ModelInfo
    from serve.request import SamplingParams
    from serve.runner import EngineRunner
    from serve.settings import ModelOptions, TextOptions
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.base.progress import Reporter

    decoder, _ = load(resolve_gguf(args.model, Reporter()), ModelOptions(ctx=1024, n_seq=2))
    runner = EngineRunner(Engine(decoder, EngineOptions(n_slots=2)), max_open=9)
    runner.start()
    model = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, 0)
    text = TextOptions(heals=False, ends_loops=False)
    service = CompletionService(runner, decoder, model, text=text)
    pool = ModelPool([PooledModel(model, 1, lambda: service)], memory=1)
    server = HttpServer(create_app(pool), bind("127.0.0.1", 0), threads=8)
    thread = threading.Thread(target=server.run)
    thread.start()

    completion = Completion((PROMPT,), args.tokens, sampling=SamplingParams(temperature=0))
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": args.tokens, "temperature": 0}
    n_tokens = service.start(completion, whole=True).collect().usage.completion_tokens
    rounds: list[tuple[float, float, float]] = []
    frames = 0
    for _ in range(args.rounds):
        alone = []
        for _ in range(args.requests):
            began = time.perf_counter()
            service.start(completion, whole=True).collect()
            alone.append(time.perf_counter() - began)
        plain, _ = over_http(server.port, args.requests, body)
        stream, frames = over_http(server.port, args.requests, {**body, "stream": True})
        rounds.append((statistics.median(alone), plain, stream))
    server.stop()
    thread.join()
    runner.close()
    decoder.close()

    alone_s, plain_s, stream_s = (statistics.median(values) for values in zip(*rounds, strict=True))
    over = 1000 * (plain_s - alone_s)
    token = 1000 * (stream_s - alone_s) / max(frames, 1)
    table = Table(title=f"{n_tokens} tokens, cached; medians of {args.rounds} × {args.requests}")
    for title in ("", "ms", "target"):
        table.add_column(title, justify="left" if not title else "right")
    table.add_row("engine alone", f"{1000 * alone_s:.2f}", "")
    table.add_row("over HTTP", f"{1000 * plain_s:.2f}", "")
    table.add_row("as a stream", f"{1000 * stream_s:.2f}", "")
    table.add_row("added by HTTP, per request", f"{over:.2f}", f"≤ {PLAIN_MS}")
    table.add_row(
        f"added by a stream, per frame ({frames} frames)", f"{token:.3f}", f"≤ {TOKEN_MS}"
    )
    Console().print(table)
    return int(over > PLAIN_MS or token > TOKEN_MS)


if __name__ == "__main__":
    sys.exit(main())
