#!/usr/bin/env python3
"""Measure what workers cost: a model on this machine, and on workers with and without the delay of a network.

    python scripts/bench_rpc.py MODEL.gguf
    python scripts/bench_rpc.py MODEL.gguf --workers 1,2 --delays 0,5 --prompt 128 --generate 64

llama.cpp must be compiled with RPC. The workers run on this machine, so the table shows the cost of the protocol and of
the network, not the gain of more memory. A delay, in milliseconds, applies to each direction. The layers are shared
out evenly. The first line is the time of a request to a worker that computes nothing, on loopback: directly, and
through the relay in the server, which survives the loss of a worker.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.delayed import delayed
from bench.memory_limit import Unlimited
from bench.served_speed import Served, measure_serving

from turbopilot.base.machine import usable_cores
from turbopilot.llama.rpc_protocol import HELLO_ANSWER, HELLO_REQUEST, REQUEST, SIZE, receive
from turbopilot.llama.worker_link import WorkerLink

_REQUESTS = 2000
# Asks for the alignment of device 0.
_REQUEST, _ANSWER = REQUEST.pack(1, 4) + struct.pack("<I", 0), 2 * SIZE.size


def main() -> None:
    arguments = _parsed()
    for line in table(arguments):
        print(line, flush=True)


def table(given: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the result, in Markdown."""
    with worker(given.threads) as address:
        direct, relayed = seconds_per_request(address), seconds_per_request(address, relayed=True)
    yield f"a request takes {direct * 1e6:.0f} µs directly, {relayed * 1e6:.0f} µs through the relay"
    yield ""
    yield "| where | delay | start | prefill | decode | a token | decode relative to local |"
    yield "|---|---|---|---|---|---|---|"
    base = best(given, ["--ngl", "0"])
    yield row("local", None, base, base)
    for delay in given.delays:
        for n in given.workers:
            with contextlib.ExitStack() as stack:
                addresses = [
                    stack.enter_context(
                        delayed(stack.enter_context(worker(given.threads)), delay / 1000)
                    )
                    for _ in range(n)
                ]
                shares = ",".join("1" * n)
                options = ["--ngl", "all", "--rpc", ",".join(addresses), "--tensor-split", shares]
                yield row(f"{n} worker{'s' * (n > 1)}", delay, best(given, options), base)


def row(where: str, delay: float | None, found: Served, base: Served) -> str:
    cells = (
        where,
        "" if delay is None else f"{delay:g} ms",
        f"{found.load_seconds:.1f} s",
        f"{found.prompt_speed:.1f} tokens/s",
        f"{found.generation_speed:.1f} tokens/s",
        f"{1000 / found.generation_speed:.1f} ms",
        f"{found.generation_speed / base.generation_speed:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def best(given: argparse.Namespace, options: list[str]) -> Served:
    """Return the round with the fastest decode: other programs only make it slower."""
    every = ["--threads", str(given.threads), "--ctx", str(given.prompt + given.generate + 64)]
    rounds = [
        measure_serving(
            given.model, [*every, "--parallel", "1", "--no-drafts", *options], Unlimited(),
            n_prompt=given.prompt, n_generate=given.generate,
        )
        for _ in range(given.rounds)
    ]  # fmt: skip
    return max(rounds, key=lambda r: r.generation_speed)


@contextlib.contextmanager
def worker(threads: int) -> Iterator[str]:
    """Run a worker on a free port until the block ends; yield its address."""
    command = [
        sys.executable,
        "-m",
        "turbopilot",
        "worker",
        "--port",
        "0",
        "--threads",
        str(threads),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("ready"):
                yield line.split()[1]
                return
        raise SystemExit(f"the worker did not start:\n{''.join(said)}")
    finally:
        process.kill()
        process.wait()


def seconds_per_request(address: str, *, relayed: bool = False) -> float:
    """Return the median time of a request that computes nothing."""
    link = WorkerLink(address) if relayed else None
    host, _, port = (link.endpoint if link else address).partition(":")
    times = []
    with socket.create_connection((host, int(port))) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(HELLO_REQUEST)
        receive(s, SIZE.size + len(HELLO_ANSWER))
        for _ in range(_REQUESTS):
            began = time.perf_counter()
            s.sendall(_REQUEST)
            receive(s, _ANSWER)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _parsed() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--workers", type=numbers, default=[1, 2], help="numbers of workers")
    parser.add_argument(
        "--delays", type=numbers, default=[0, 5], help="milliseconds, in each direction"
    )
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--generate", type=int, default=64, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=usable_cores(), help="threads of each process"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
