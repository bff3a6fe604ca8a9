#!/usr/bin/env python3
"""Show the progress of a compilation: copy the output of `pip install --verbose` to a log and print a percentage."""

from __future__ import annotations

import re
import sys
import time

STEP = re.compile(r"\[(\d+)/(\d+)\]")


def main() -> None:
    began, shown = time.monotonic(), -1
    terminal = sys.stderr.isatty()
    with open(sys.argv[1], "w", encoding="utf-8", errors="replace") as log:  # noqa: PTH123
        for raw in sys.stdin.buffer:
            line = raw.decode("utf-8", "replace")
            log.write(line)
            match = STEP.match(line.strip())
            if not match:
                continue
            done, total = int(match[1]), int(match[2])
            percent = 100 * done // total
            if percent == shown or (not terminal and percent // 10 == shown // 10):
                continue
            shown = percent
            seconds = time.monotonic() - began
            text = f"    compiling llama.cpp: {percent:3d} % ({done} of {total} files), {seconds:.0f} s"
            sys.stderr.write(f"\r{text}" if terminal else f"{text}\n")
            sys.stderr.flush()
    if terminal and shown >= 0:
        sys.stderr.write("\n")


if __name__ == "__main__":
    main()
