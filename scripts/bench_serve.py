#!/usr/bin/env python3
r"""Our server against llama.cpp's own and llama-cpp-python's: the same file, the same requests, in turns.

    python scripts/bench_serve.py MODEL.gguf --llama-server build/bin/llama-server --llama-cpp-python venv/bin/python
    python scripts/bench_serve.py MODEL.gguf                                # ours alone
    python scripts/bench_serve.py MODEL.gguf … --search --rounds 1          # all candidate settings of each

To build the llama-server that our llama.cpp belongs to, and to have the other:

    pip download --no-deps --no-binary :all: llama-cpp-python==VERSION      # the one that is installed
    tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build -j --target llama-server
    python -m venv venv && venv/bin/pip install 'llama-cpp-python[server]==VERSION'

The scenarios, each on a server just started; every round all servers take their turn, and medians count:

    one               a stream of 64 tokens after 300 of fresh code
    eight             8 clients with fresh prompts of 300 tokens, 32 tokens each, 3 times
    shared            16 clients at once whose prompts have their first 1,500 tokens in common, 32 tokens each
    typing            a recorded session of a person who writes code: a request after every key, closed when the
                      next key comes; counted is how long the suggestions took that the person waited for
    typing-debounced  the same session in an editor that asks 75 ms after the last key
    overhead          Python's share of a step of ours

Temperature 0. The candidates' settings are in bench/settings.py, the session in data/typing_trace.json, with
how it was made and what it holds. A ratio is ours to the best of the others. Exit code 1: a target was missed.
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
from bench.settings import Settings, candidates
from bench.trace import DATA
from bench.workload import TINY, Sizes

SCENARIOS = ("one", "eight", "shared", "typing", "typing-debounced")
OVERHEAD = "overhead"


def measure(
    scenario: Scenario,
    server: Server,
    settings: Settings,
    args: argparse.Namespace,
    results: Results,
) -> None:
    """One run: start, ask, end. A server that fails is told of; the others go on."""
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
            ways = [
                (server, s) for server in servers for s in candidates(server.name, scenario.name)
            ]
            if not args.search:
                ways = [(server, candidates(server.name, scenario.name)[0]) for server in servers]
            for server, settings in ways:
                measure(scenario, server, settings, args, results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's server")
    parser.add_argument("--llama-cpp-python", type=Path, help="a Python that has llama_cpp.server")
    parser.add_argument(
        "--scenario", action="append", choices=(*SCENARIOS, OVERHEAD), help="default: all"
    )
    parser.add_argument("--only", action="append", help="measure this server alone, by its name")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="for each (default: all cores)"
    )
    parser.add_argument("--search", action="store_true", help="try all candidate settings")
    parser.add_argument(
        "--ours", default="", metavar="ARGS", help="more arguments for ours: --ours='--ctx 4096'"
    )
    parser.add_argument("--trace", type=Path, default=DATA, help="another recorded session")
    parser.add_argument(
        "--tiny", action="store_true", help="so little that it says nothing of speed"
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds for a run at most")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a server that was started is ended
    servers = found_servers(args.llama_server, args.llama_cpp_python)
    args.extra = {s.name: args.ours.split() if s is servers[0] else [] for s in servers}
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
