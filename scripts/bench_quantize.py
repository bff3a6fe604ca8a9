#!/usr/bin/env python3
r"""Compare our quantized files and importance matrices with those of llama.cpp's tools: bytes and time.

    python scripts/bench_quantize.py --tools DIR                # bytes of all types; time of six, with 350M weights
    python scripts/bench_quantize.py --tools DIR --only bytes   # minutes less

DIR holds llama-quantize and llama-imatrix of the llama.cpp version in llama-cpp-python. To build them:

    pip download --no-deps --no-binary :all: llama-cpp-python==VERSION    # the installed version
    tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    cmake --build build -j --target llama-quantize llama-imatrix          # then: --tools build/bin

Bytes: two models are quantized to all types, with an importance matrix and, if llama.cpp allows it, without one. The
rows of the first, a small random model, fit every type; those of the second, the bundled model, do not. The keys
turbopilot.quantize.* are removed from our files, then the files must be equal. Time: both tools run by turns, and the
result is the ratio of the medians. Matrix: both tools compute it from the same text.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from bench.random_checkpoint import make_checkpoint

from converters import convert
from quantize import RECIPES, QuantizeOptions, quantize
from quantize.imatrix import GatherOptions, gather, read_imatrix
from turbopilot.app.resolve import demo_checkpoint
from turbopilot.corpus import calibration_text
from turbopilot.formats.gguf.edit import set_metadata

OUR_KEYS = "turbopilot.quantize."
TIMED = ("Q8_0", "Q4_0", "Q4_K_M", "Q6_K", "IQ4_XS", "Q3_K_M")


def tool(command: Sequence[object], folder: Path | None = None) -> None:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, check=False, text=True, cwd=folder
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


class Pair:
    """One model, quantized by both tools."""

    def __init__(self, quantizer: Path, model: Path, folder: Path, threads: int) -> None:
        self.quantizer, self.model, self.folder, self.threads = quantizer, model, folder, threads
        self.ours, self.theirs = folder / "ours.gguf", folder / "theirs.gguf"

    def run_ours(self, kind: str, matrix: Path | None) -> None:
        # As in the command line: the source's SHA-256 is computed once and cached.
        options = QuantizeOptions(imatrix=matrix, threads=self.threads, digests=self.folder)
        quantize(self.model, self.ours, kind, options, force=True)

    def run_theirs(self, kind: str, matrix: Path | None) -> None:
        # Named without its folder: llama-quantize writes the given path into the file.
        given = ["--imatrix", matrix.name] if matrix else []
        command = [self.quantizer, *given, self.model, self.theirs, kind, self.threads]
        tool(command, matrix.parent if matrix else None)

    def same(self, kind: str, matrix: Path | None) -> bool:
        self.run_ours(kind, matrix)
        self.run_theirs(kind, matrix)
        set_metadata(self.ours, remove=OUR_KEYS)
        return self.ours.read_bytes() == self.theirs.read_bytes()


def compare_bytes(pair: Pair, matrix: Path, name: str, kinds: Sequence[str]) -> bool:
    differ, compared = [], 0
    for recipe in (r for r in RECIPES if not kinds or r.name in kinds):
        for given in (None, matrix):
            if given is None and recipe.needs_imatrix:
                continue  # both tools refuse this
            compared += 1
            if not pair.same(recipe.name, given):
                differ.append(f"{recipe.name}{' with a matrix' if given else ''}")
    print(f"{name}: {compared - len(differ)} of {compared} files are the same to the byte")
    for line in differ:
        print(f"  DIFFERS: {line}")
    return not differ


def in_turn(rounds: int, *work: Callable[[], object]) -> list[float]:
    """Run all functions one after the other in every round; return the median seconds of each."""
    seconds: list[list[float]] = [[] for _ in work]
    for _ in range(rounds):
        for i, one in enumerate(work):
            began = time.perf_counter()
            one()
            seconds[i].append(time.perf_counter() - began)
    return [statistics.median(s) for s in seconds]


def compare_time(pair: Pair, kinds: Sequence[str], rounds: int) -> bool:
    print(f"{'type':8} {'ours':>8} {'theirs':>8} {'ratio':>6}")
    ratios: list[float] = []
    for kind in kinds:
        if not ratios:  # warm up: read the source into the page cache and compute its digest
            pair.run_theirs(kind, None)
            pair.run_ours(kind, None)
        ours, theirs = in_turn(
            rounds, partial(pair.run_ours, kind, None), partial(pair.run_theirs, kind, None)
        )
        ratios.append(ours / theirs)
        print(f"{kind:8} {ours:7.2f}s {theirs:7.2f}s {ratios[-1]:6.3f}", flush=True)
    print(f"all of them: {statistics.geometric_mean(ratios):.3f}")
    return statistics.geometric_mean(ratios) <= 1.05


def compare_matrix(imatrix: Path, model: Path, folder: Path, chunks: int, threads: int) -> bool:
    ours, theirs, text = folder / "ours-m.gguf", folder / "theirs-m.gguf", folder / "text.txt"
    text.write_text(calibration_text(), "utf-8")
    command = [
        imatrix, "-m", model, "-f", text, "-o", theirs, "-c", 512, "--chunks", chunks, "-t", threads, "--no-ppl",
    ]  # fmt: skip

    def run_ours() -> None:
        ours.unlink(missing_ok=True)
        options = GatherOptions("text.txt", chunks, threads=threads)
        gather(model, ours, calibration_text(), options)

    mine, other = in_turn(3, run_ours, lambda: tool(command))
    a, b = read_imatrix(ours), read_imatrix(theirs)
    counts = all(np.array_equal(a.entries[n].counts, b.entries[n].counts) for n in b.entries)
    off = max(
        float(np.abs(a.entries[n].sums - e.sums).max() / np.abs(e.sums).max())
        for n, e in b.entries.items()
    )
    names = set(a.entries) == set(b.entries)
    print(
        f"matrix of {chunks} chunks: {len(b.entries)} entries, names {'equal' if names else 'DIFFER'}, counts "
        f"{'equal' if counts else 'DIFFER'}, sums off by {off:.1e} of the largest; {mine:.1f} s against {other:.1f} s: "
        f"{mine / other:.3f}"
    )
    return names and counts and off < 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", type=Path, required=True, help="folder of llama.cpp's tools")
    parser.add_argument(
        "--bytes-of", help="comma-separated types whose bytes are compared (default: all)"
    )
    parser.add_argument("--only", choices=("bytes", "time", "matrix"))
    parser.add_argument(
        "--model", type=Path, help="F16 GGUF for the timing (default: 350M random weights)"
    )
    parser.add_argument("--types", default=",".join(TIMED), help="comma-separated types to time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder for temporary files; needs 3 GB")
    a = parser.parse_args()
    a.tools = a.tools.resolve()
    wanted = [a.only] if a.only else ["bytes", "matrix", "time"]
    good = []
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        folder = Path(name)
        demo, small = folder / "demo-f16.gguf", folder / "small-f16.gguf"
        convert(demo_checkpoint(), demo)
        if "bytes" in wanted:
            make_checkpoint(folder / "small", "tiny")
            convert(folder / "small", small)
            for model, what in ((small, "rows of 256"), (demo, "the bundled model")):
                matrix = folder / f"{model.stem}-m.gguf"
                gather(model, matrix, calibration_text(), GatherOptions("x", 4, chunk_size=128))
                pair = Pair(a.tools / "llama-quantize", model, folder, a.threads)
                good.append(
                    compare_bytes(
                        pair, matrix, what, (a.bytes_of or "").split(",") if a.bytes_of else ()
                    )
                )
        if "matrix" in wanted:
            good.append(compare_matrix(a.tools / "llama-imatrix", demo, folder, 40, a.threads))
        if "time" in wanted:
            model = a.model
            if model is None:
                make_checkpoint(folder / "350M", "350M")
                model = folder / "350M-f16.gguf"
                convert(folder / "350M", model)
            pair = Pair(a.tools / "llama-quantize", model, folder, a.threads)
            good.append(compare_time(pair, a.types.split(","), a.rounds))
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
