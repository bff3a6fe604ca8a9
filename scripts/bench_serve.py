#!/usr/bin/env python3
r"""Compare our server with llama.cpp's and llama-cpp-python's on the same model file and the same requests.

    python scripts/bench_serve.py MODEL.gguf --llama-server build/bin/llama-server --llama-cpp-python venv/bin/python
    python scripts/bench_serve.py MODEL.gguf                                # ours alone
    python scripts/bench_serve.py MODEL.gguf … --search --rounds 1          # all candidate settings of each server

To build the llama-server of the installed llama.cpp version, and to install llama-cpp-python's server:

    pip download --no-deps --no-binary :all: llama-cpp-python==VERSION      # the installed version
    tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build -j --target llama-server
    python -m venv venv && venv/bin/pip install 'llama-cpp-python[server]==VERSION'

Each scenario runs on a server that has just started. All servers run in every round, and the results are medians:

    one               streams of 64 tokens, one after the other, after prompts of 300 tokens that share nothing
    eight, sixteen    8 or 16 clients, 3 requests each: prompts of 300 tokens that share nothing, 32 generated tokens
    shared            16 clients at once, whose prompts share their first 1,500 tokens; 32 generated tokens each
    sliding           windows of 120 lines, each one line further, as editors send them after every new line
    beside            streams of 15 tokens with pauses: on an idle machine, then beside a busy process for each core
    repository        12 pieces of other files before the edited file, of which the oldest is replaced by a new last one
    typing            a recorded typing session: a request after every key, closed at the next key; measures the
                      latency of the completions that the person waited for
    typing-debounced  the same session in an editor that sends a request 75 ms after the last key
    overhead          Python's share of a decode step of our server

The temperature is 0. The settings of the servers are in bench/settings.py, and the session is in
data/typing_trace.json with a description. A ratio is our number divided by the best of the others. Exit code 1: a
target was missed, or a server failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.client import BadAnswer
from bench.overhead import measure_overhead
from bench.report import Results, all_kept, machine, plain, show
from bench.scenarios import Scenario, prepare
from bench.servers import NotStarted, Server, found_servers, started
from bench.settings import Settings, candidates, compared
from bench.trace import DATA
from bench.workload import TINY, Sizes

SCENARIOS = (
    "one",
    "eight",
    "sixteen",
    "shared",
    "sliding",
    "repository",
    "beside",
    "typing",
    "typing-debounced",
)
OVERHEAD = "overhead"


def measure(
    scenario: Scenario,
    server: Server,
    settings: Settings,
    args: argparse.Namespace,
    results: Results,
) -> None:
    """Run a scenario on one server; record its result, or its failure without stopping the benchmark."""
    way = f"{scenario.name}: {server.name} ({settings.name})"
    try:
        with started(
            server, args.model, args.threads, (*settings.args, *args.extra[server.name])
        ) as running:
            ran = asyncio.run(asyncio.wait_for(scenario.run(running.port), args.limit))
    except (NotStarted, BadAnswer, OSError, asyncio.TimeoutError) as e:
        results.failures.append(f"{way}: {e!r}")
        print(results.failures[-1], file=sys.stderr, flush=True)
        return
    results.add(scenario.name, server.name, settings.name, ran)
    said = ", ".join(f"{k} {v:.4g}" for k, v in ran.found.items())
    print(f"{way}: {said}", file=sys.stderr, flush=True)


def run(
    scenarios: Sequence[Scenario], servers: Sequence[Server], args: argparse.Namespace
) -> Results:
    results = Results()
    for n in range(args.rounds):
        print(f"round {n + 1} of {args.rounds}", file=sys.stderr, flush=True)
        for scenario in scenarios:
            tried = candidates if args.search else compared
            ways = [(server, s) for server in servers for s in tried(server.name, scenario.name)]
            for server, settings in ways:
                measure(scenario, server, settings, args, results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server")
    parser.add_argument(
        "--llama-cpp-python", type=Path, help="a Python interpreter that has llama_cpp.server"
    )
    parser.add_argument(
        "--scenario", action="append", choices=(*SCENARIOS, OVERHEAD), help="default: all"
    )
    parser.add_argument(
        "--only", action="append", help="measure only the server of this name (may be repeated)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="threads of each server (default: all cores)",
    )
    parser.add_argument("--search", action="store_true", help="try all candidate settings")
    parser.add_argument(
        "--ours",
        default="",
        metavar="ARGS",
        help="further arguments of our server, e.g. --ours='--ctx 4096'",
    )
    parser.add_argument("--trace", type=Path, default=DATA, help="another recorded typing session")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="few tokens, to test the benchmark; too few to measure speed",
    )
    parser.add_argument(
        "--limit", type=float, default=900, help="seconds after which a run fails (default: 900)"
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running server
    servers = found_servers(args.llama_server, args.llama_cpp_python)
    same_text = ["--no-heal", "--no-end-loops"]  # all servers generate the same tokens
    args.extra = {s.name: [] for s in servers}
    args.extra[servers[0].name] = [*same_text, *args.ours.split()]
    servers = [s for s in servers if not args.only or s.name in args.only]
    sizes = TINY if args.tiny else Sizes()
    names = args.scenario or [*SCENARIOS, OVERHEAD]
    asked = [name for name in SCENARIOS if name in names]
    scenarios = prepare(asked, args.model, sizes, args.trace) if asked else []
    results = run(scenarios, servers, args)
    if OVERHEAD in names:
        results.overhead = measure_overhead(args.model, args.threads, sizes)
    head = {
        "model": args.model.name, "bytes": args.model.stat().st_size, "threads": args.threads,
        "rounds": args.rounds, **machine(),
    }  # fmt: skip
    shown = {**head, **{s.name: s.version for s in servers}}
    show(results, shown)
    if args.json:
        args.json.write_text(json.dumps(plain(results, head, servers), indent=1) + "\n", "utf-8")
    raise SystemExit(0 if all_kept(results) else 1)


if __name__ == "__main__":
    main()
