#!/usr/bin/env python3
"""Measure the project's main claim: a 7B code model is converted, quantized and served in 4 GiB of memory.

    python scripts/bench_headline.py --folder DIR                  # CodeGen-6B's geometry; 29 GB of disk, 15 minutes
    python scripts/bench_headline.py --geometry 350M --memory 1GiB --type Q4_0
    python scripts/bench_headline.py --geometry tiny --memory 512MiB --type Q4_0        # seconds

A random F16 checkpoint goes through convert, quantize and serve, each in its own process. The kernel limits the
server's memory (a control group, or else ulimit -v), without swap. The model file is dropped from the page cache
before, so that the pages that the server reads are charged to it. The memory of convert and quantize is sampled. Pages
of mapped files are shown in their own column, because the kernel can drop them when it needs memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.memory_limit import Unlimited, memory_limit
from bench.process_memory import Memory, watch
from bench.random_checkpoint import GEOMETRY, make_checkpoint, n_weights
from bench.served_speed import Served, measure_serving

GIB = 1 << 30
CONVERT_LIMIT, QUANTIZE_LIMIT = (
    3 * GIB // 2,
    2 * GIB,
)  # documented memory limits of the two commands
N_PROMPT, N_GENERATE = 1500, 64
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}


@dataclass(frozen=True)
class Step:
    """Row of the table: seconds, peak bytes, and a verdict if the step has a limit."""

    name: str
    seconds: float
    peak: Memory | None = None
    limit: str = ""
    verdict: str = ""

    def cells(self) -> list[str]:
        memories = [f"{n / 1e6:,.0f}" for n in self.peak] if self.peak else [""] * 3
        return [self.name, f"{self.seconds:,.1f}", *memories, self.limit, self.verdict]


def n_bytes(text: str) -> int:
    """Parse a size such as `4GiB`.

    >>> n_bytes("1.5GiB") == 3 << 29
    True
    """
    number, unit = text.strip()[:-3], text.strip()[-3:]
    if unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text}: expected a number and one of {', '.join(UNITS)}")
    return int(float(number) * UNITS[unit])


def verdict(kept: bool) -> str:
    return "kept" if kept else "EXCEEDED"


def run(folder: Path, args: argparse.Namespace) -> tuple[list[Step], list[Served], Path]:
    """Run all steps; the files of each are removed after the next one."""
    checkpoint, f16, quantized = folder / "checkpoint", folder / "f16.gguf", folder / "model.gguf"
    turbopilot = [sys.executable, "-m", "turbopilot"]
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        print(f"{step.name}: {step.seconds:,.1f} s {step.verdict}", file=sys.stderr, flush=True)

    began = time.monotonic()
    make_checkpoint(checkpoint, args.geometry)
    done(Step("make the checkpoint", time.monotonic() - began))

    converted = watch([*turbopilot, "convert", str(checkpoint), "-o", str(f16)])
    kept = converted.peak.rss <= CONVERT_LIMIT
    done(Step("convert", converted.seconds, converted.peak, "RSS ≤ 1.5 GiB", verdict(kept)))
    if not args.keep:
        shutil.rmtree(checkpoint)

    what = [args.type] if args.type else ["--fit", args.fit or args.memory_text]
    if not args.type:
        # Skip the measurement of sensitivities: those of random weights mean nothing.
        what += ["--quick", "--ctx", str(args.ctx), "--cache-type", args.cache_type]
    made = watch([*turbopilot, "quantize", str(f16), *what, "-o", str(quantized)])
    kept = made.peak.anonymous <= QUANTIZE_LIMIT
    name = f"quantize {' '.join(what[:2])}"
    done(Step(name, made.seconds, made.peak, "anonymous ≤ 2 GiB", verdict(kept)))
    if not args.keep:
        f16.unlink()

    options = ["--ctx", str(args.ctx), "--cache-type", args.cache_type]
    if args.threads:
        options += ["--threads", str(args.threads)]
    n_prompt = min(N_PROMPT, args.ctx - N_GENERATE - 1)
    served = []
    with memory_limit(args.memory) as limit:
        served.append(
            measure_serving(quantized, options, limit, n_prompt=n_prompt, n_generate=N_GENERATE)
        )
    if args.compare:
        served.append(
            measure_serving(
                quantized, options, Unlimited(), n_prompt=n_prompt, n_generate=N_GENERATE
            )
        )
    for s in served:
        within = args.memory_text if s is served[0] else "none"
        # More than one wait for the disk per token means that the weights do not fit into memory.
        kept = not s.group.get("oom_kills") and s.major_faults <= s.generated
        done(Step(f"serve: load ({s.how})", s.load_seconds, s.ready, within))
        prompt_seconds = s.prompt_tokens / s.prompt_speed
        done(Step(f"serve: {s.prompt_tokens} tokens of prompt", prompt_seconds, limit=within))
        generating = s.generated / s.generation_speed
        done(
            Step(
                f"serve: {s.generated} tokens generated", generating, s.peak, within, verdict(kept)
            )
        )
    return steps, served, quantized


def table(steps: list[Step]) -> str:
    head = ["step", "seconds", "peak MB", "anonymous", "of files", "limit", "verdict"]
    rows = [head, *(s.cells() for s in steps)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            c.rjust(w) if 0 < i < 5 else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def told(s: Served) -> str:
    lines = [*s.report]
    lines.append(
        f"{s.how}: prompt {s.prompt_speed:.1f} tokens/s, generation {s.generation_speed:.2f} tokens/s; "
        f"waits for the disk while generating: {s.major_faults}"
    )
    if s.group:
        sizes = {k: f"{v / 1e6:,.0f} MB" for k, v in s.group.items() if k in _SIZES}
        counts = {k: str(v) for k, v in s.group.items() if k not in _SIZES}
        lines.append(", ".join(f"{k} {v}" for k, v in (sizes | counts).items()))
    return "\n".join(lines)


_SIZES = ("usage", "peak", "anonymous", "file")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometry", choices=GEOMETRY, default="6B")
    parser.add_argument(
        "--folder", type=Path, help="folder for temporary files (default: the system's)"
    )
    parser.add_argument(
        "--memory", dest="memory_text", default="4GiB", help="memory limit of serve (default: 4GiB)"
    )
    parser.add_argument("--ctx", type=int, default=2048)
    parser.add_argument("--type", help="quantize to this type (default: --fit)")
    parser.add_argument("--fit", help="quantize to fit into this memory (default: --memory)")
    parser.add_argument("--cache-type", default="q8_0")
    parser.add_argument("--threads", type=int, help="threads of serve (default: its own)")
    parser.add_argument(
        "--compare", action="store_true", help="also measure serve without the limit"
    )
    parser.add_argument("--keep", action="store_true", help="keep all files in --folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    try:
        args.memory = n_bytes(args.memory_text)
    except (argparse.ArgumentTypeError, ValueError) as e:
        parser.error(str(e))
    if args.keep and not args.folder:
        parser.error("--keep needs --folder")
    if sys.platform != "linux":
        parser.error(
            "this benchmark needs Linux: it limits and measures memory with the Linux kernel"
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="headline-", dir=args.folder))
    try:
        # Checkpoint and F16 file exist at the same time.
        if (need := int(4.1 * n_weights(args.geometry))) > (free := shutil.disk_usage(work).free):
            raise SystemExit(
                f"{work}: {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed: choose another --folder"
            )
        steps, served, quantized = run(work, args)
        size = quantized.stat().st_size
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        if not args.keep:
            shutil.rmtree(work)
    weights = n_weights(args.geometry)
    if args.json:
        plain: dict[str, Any] = {
            "geometry": args.geometry, "weights": weights, "file_bytes": size, "memory": args.memory,
            "steps": [asdict(s) | {"peak": s.peak and s.peak._asdict()} for s in steps],
            "served": [s.plain() for s in served],
        }  # fmt: skip
        print(json.dumps(plain))
        return
    print(f"\nCodeGen-{args.geometry}: {weights / 1e9:.2f} · 10⁹ weights, ", end="")
    print(f"{size / 1e9:.3f} GB: {8 * size / weights:.2f} bits per weight\n")
    print(table(steps))
    for s in served:
        print(f"\n{told(s)}")


if __name__ == "__main__":
    main()
