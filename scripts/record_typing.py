#!/usr/bin/env python3
"""Record the typing session that bench_serve replays: a simulated person writes code with a model's completions.

    python scripts/record_typing.py MODEL.gguf                            # completions of our server
    python scripts/record_typing.py MODEL.gguf --llama-server PATH        # completions of llama-server

The person is in bench/typist.py, the file format in bench/trace.py. The file holds the times between keys but not the
times of the server: a replay waits for the responses of the server that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
from datetime import date
from pathlib import Path

from bench.client import complete, greedy
from bench.servers import LLAMA_SERVER, found_servers, started
from bench.trace import DATA, Trace, save_trace, shares
from bench.typist import Typist

from turbopilot.corpus import Excerpt, excerpts

# Long files of four languages and projects; none is in the calibration corpus.
FILES = (
    "flask/sessions.py",
    "src/browser/renderer/dom/WidthCache.ts",
    "src/utstring.h",
    "middleware/rate_limiter.go",
)
THERE = 0.55  # share of a file that exists at the start of the session
VISITS = 7  # visits to the four files by turns
MAX_TOKENS = 16


def wanted_files() -> list[Excerpt]:
    by_path = {e.path: e for e in excerpts("held_out")}
    return [by_path[path] for path in FILES]


def split(text: str) -> tuple[str, str]:
    """Split a text at a line end into the existing part and the part that the person writes."""
    cut = text.index("\n", int(THERE * len(text))) + 1
    return text[:cut], text[cut:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", type=Path)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--requests", type=int, default=190)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", "--output", type=Path, default=DATA)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the running server
    server = found_servers(args.llama_server, None)[-1]
    files = wanted_files()
    texts = [split(f.text) for f in files]
    with started(server, args.model, args.threads) as running:

        def suggest(prompt: str) -> str:
            fields = greedy(prompt, MAX_TOKENS, stream=False)
            return asyncio.run(complete(running.port, fields)).text

        events = Typist(texts, suggest, args.seed).work(args.requests, VISITS)
    name = "llama.cpp's llama-server" if server.name == LLAMA_SERVER else "turbopilot serve"
    trace = Trace(
        about={
            "what": "a simulated person (scripts/bench/typist.py) who writes the rest of four files with "
            "completions; a request after every key",
            "suggestions": f"{args.model.name}, temperature 0, by {name} {server.version}",
            "seed": args.seed,
            "recorded": f"{date.today()}, Python {platform.python_version()}",
            "files": [f"{f.project} {f.path} {f.lines}" for f in files],
        },
        max_tokens=MAX_TOKENS,
        files=tuple(
            (f"{f.project} {f.path}", there) for f, (there, _) in zip(files, texts, strict=True)
        ),
        events=tuple(events),
    )
    save_trace(trace, args.output)
    print(json.dumps(shares(trace), indent=2))


if __name__ == "__main__":
    main()
