#!/usr/bin/env python3
r"""Check a machine with a GPU, in at most ten minutes, and write one Markdown report. Run it as scripts/check_gpu.

    scripts/check_gpu --report gpu.md --llama-cpp package            # build for the GPU that is found, and check it
    scripts/check_gpu --report gpu.md --llama-server PATH            # beside a llama-server compiled for the same GPU
    scripts/check_gpu --report gpu.md --minutes 4 --no-install       # with less time, in the environment as it is
    scripts/check_gpu --backend cpu --tiny                           # a dry run without a GPU
    scripts/check_gpu --rpc 127.0.0.1:50052                          # devices of `turbopilot worker`

--backend NAME compiles for another backend than the one that is found; --no-install uses the environment as it is.
`--llama-cpp package` compiles llama-server from the source of the installed llama-cpp-python, which pip fetches, with
the very libraries for the GPU that TurboPilot uses; `--llama-cpp FOLDER` compiles all of it from another source.
The steps, with no layers, half of them and all of them on the GPU:

    offload      the bundled model is served with as many layers on the GPU as were asked for
    verify       the bundled model against PyTorch, in F16, Q8_0, Q4_K_M and Q4_0: logits within their limits
    completions  the same files: greedy completions equal to those without the GPU, up to near ties
    fit          `--ngl auto`, told that the GPU has half of the model's size: some layers on it, and a completion
    speed        a random CodeGen-350M in each type: 1, 8 and 32 streams, beside llama-server with the same settings
    freed        the GPU's free memory at the end is that of the beginning

On a slow machine the steps do less, and the report says how much. The time of the compilation counts. The report is
written after each step, and when the time is up or a signal ends the process (SIGTERM, Ctrl-C). Nothing else is
downloaded. The exit code is 1 if a step failed or we are slower than llama-server.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.gpu_check import FULL, TINY, GpuCheck, GpuResults, Peer
from bench.gpu_report import markdown
from bench.gpu_steps import all_steps
from bench.llama_server_build import PACKAGED, build_llama_server
from bench.servers import found_servers

# Seconds to end what runs when the time is up, and then to look at the memory of the devices; at most a tenth.
_RESERVE = 25.0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--report", type=Path, help="write the report to this file (default: stdout)"
    )
    parser.add_argument(
        "--llama-server", type=Path, help="llama.cpp's server, for the same backend"
    )
    parser.add_argument(
        "--llama-cpp", metavar="FOLDER", help=f"llama.cpp's source, to compile that server; or {PACKAGED}"
    )  # fmt: skip
    parser.add_argument("--rpc", default="", help="workers to use as devices: HOST:PORT,…")
    parser.add_argument("--minutes", type=float, default=10, help="time limit (default: 10)")
    parser.add_argument("--threads", type=int, help="threads of each server (default: its own)")
    parser.add_argument("--folder", type=Path, help="folder for temporary files; needs 4 GB")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model and few tokens, to test this script"
    )
    return parser.parse_args()


def main() -> None:
    args = parsed()
    began = time.monotonic() - float(os.environ.get("CHECK_GPU_SPENT", 0))
    with tempfile.TemporaryDirectory(prefix="check-gpu-", dir=args.folder) as name:
        folder = Path(name)
        program = args.llama_server
        if args.llama_cpp:
            program = build_llama_server(args.llama_cpp, folder / "build")
        seconds = 60 * args.minutes
        check = GpuCheck(
            folder, TINY if args.tiny else FULL, deadline=began + seconds - min(_RESERVE, seconds / 10), rpc=args.rpc,
            threads=args.threads, peers=tuple(map(Peer, found_servers(program, None))),
        )  # fmt: skip

        def text(results: GpuResults) -> str:
            passed = time.monotonic() - began
            return markdown(results, check, seconds=passed, command=sys.argv[1:])

        def save(results: GpuResults) -> None:
            if args.report:
                args.report.write_text(text(results), "utf-8")

        results = all_steps(check, save)
    if args.report:
        print(f"report: {args.report}", file=sys.stderr)
    else:
        print(text(results))
    sys.exit(0 if results.passed else 1)


if __name__ == "__main__":
    main()
