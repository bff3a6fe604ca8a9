#!/usr/bin/env python3
"""Attack a server with requests that Schemathesis makes from /openapi.json. Run by scripts/fuzz_server.

    scripts/fuzz_server                                   # the bundled model, thousands of requests, minutes
    scripts/fuzz_server MODEL.gguf --examples 1000
    scripts/fuzz_server --port 18080                      # a server that runs already; it is not ended

Promised is: no server error but 503 and 504, no answer that takes more than a minute, every answer as described, and at
the end nothing that still runs or waits. Exit code 1: a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.servers import NotStarted, found_servers, started
from bench.soak import left_over

CONFIG = Path(__file__).with_suffix(".toml")
PATIENCE = 60.0  # seconds for an answer
FREED = 30.0  # seconds after the last request until everything has to be free


@contextlib.contextmanager
def port_of(args: argparse.Namespace) -> Iterator[int]:
    if args.port:
        yield args.port
        return
    (ours,) = found_servers(None, None)
    settings = ("--ctx", "512", "--max-tokens", "4")  # requests without an end would only take time
    with started(ours, args.model, args.threads, settings) as running:
        yield running.port


def attack(args: argparse.Namespace, port: int) -> int:
    """Schemathesis's exit code. It works in a folder of its own: it leaves files where it is."""
    url = f"http://127.0.0.1:{port}/openapi.json"
    command = [str(args.schemathesis), "--config-file", str(CONFIG), "run", url]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(args.examples)]
    command += ["--request-timeout", str(PATIENCE), "--continue-on-failure"]
    command += ["--seed", str(args.seed)] if args.seed is not None else []
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path, help="default: the bundled one")
    parser.add_argument("--examples", type=int, default=200, help="of each route, at random; 200")
    parser.add_argument("--seed", type=int, help="repeats a run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, help="of a server that runs already")
    parser.add_argument("--schemathesis", type=Path, required=True, help="the program")
    args = parser.parse_args()
    args.schemathesis = args.schemathesis.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a server that was started is ended
    try:
        with port_of(args) as port:
            failed = attack(args, port)
            left = asyncio.run(left_over(port, FREED))
    except NotStarted as e:
        raise SystemExit(str(e)) from None
    print(f"left running or waiting: {left or 'nothing'}")
    raise SystemExit(1 if failed or left else 0)


if __name__ == "__main__":
    main()
