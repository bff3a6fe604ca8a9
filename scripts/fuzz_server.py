#!/usr/bin/env python3
"""Test a server with requests that Schemathesis generates from /openapi.json. Run by scripts/fuzz_server.

    scripts/fuzz_server                                   # the bundled model, thousands of requests, minutes
    scripts/fuzz_server MODEL.gguf --examples 1000
    scripts/fuzz_server --port 18080                      # a server that runs already; it is not stopped

Exit code 1: a response has a server error other than 503 and 504, takes more than a minute or differs from its
description, or requests are still running or waiting at the end.
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
PATIENCE = 60.0  # seconds for a response
FREED = 30.0  # seconds after the last request in which all requests must end


@contextlib.contextmanager
def port_of(args: argparse.Namespace) -> Iterator[int]:
    if args.port:
        yield args.port
        return
    (ours,) = found_servers(None, None)
    settings = ("--ctx", "512", "--max-tokens", "4")  # long completions would only take time
    with started(ours, args.model, args.threads, settings) as running:
        yield running.port


def attack(args: argparse.Namespace, port: int) -> int:
    """Run Schemathesis and return its exit code; a temporary folder takes the files that it leaves."""
    url = f"http://127.0.0.1:{port}/openapi.json"
    command = [str(args.schemathesis), "--config-file", str(CONFIG), "run", url]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(args.examples)]
    command += ["--request-timeout", str(PATIENCE), "--continue-on-failure"]
    command += ["--exclude-path", "/status/stream"]  # it never ends
    command += ["--seed", str(args.seed)] if args.seed is not None else []
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", type=Path, help="model file (default: the bundled model)"
    )
    parser.add_argument(
        "--examples", type=int, default=200, help="random examples of each route (default: 200)"
    )
    parser.add_argument("--seed", type=int, help="seed of an earlier run, to repeat it")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--port", type=int, help="port of a running server, to use instead of a new one"
    )
    parser.add_argument("--schemathesis", type=Path, required=True, help="the program")
    args = parser.parse_args()
    args.schemathesis = args.schemathesis.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running server
    try:
        with port_of(args) as port:
            failed = attack(args, port)
            left = asyncio.run(left_over(port, FREED))
    except NotStarted as e:
        raise SystemExit(str(e)) from None
    print(f"requests still running or waiting: {left or 'none'}")
    raise SystemExit(1 if failed or left else 0)


if __name__ == "__main__":
    main()
