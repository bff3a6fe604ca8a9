"""Counts of an attack, its violations with the inputs that caused them, a progress line and a table."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A frame of ours in a traceback; .venv is in the same folder.
OURS = re.compile(re.escape(str(ROOT)) + "/(?:turbopilot|converters|quantize|serve)/")
MOST_KEPT = 3  # inputs that are kept of one cause
_CAUSE = re.compile(  # the exception of a traceback, or a line that names the end of a process
    r"^Traceback .*\n(?:[ \t].*\n|\n)*(\S.*)|^(.*(?:ASSERT|what\(\)|error: |differs from|left behind|not as before).*)",
    re.MULTILINE,
)
_EVERY = 0.5  # seconds between two progress lines on a terminal; in a log, 20 times as many


class Tally:
    """Thread-safe counts of one attack.

    Args:
        kept: folder for the inputs of violations; made when the first is found.
        seconds: limit of time for the attack.
        total: number of cases.
    """

    def __init__(self, kept: Path, seconds: float, total: int) -> None:
        self.kept, self.total, self.done = kept, total, 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.violations: dict[tuple[str, str, str], list[str]] = {}  # row, column, cause → cases
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._shown = 0.0
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() > self._until

    def count(self, row: str, column: str, n: int = 1) -> None:
        """Add to a cell of the table."""
        with self._lock:
            self.counts[row, column] += n

    def step(self) -> None:
        """Count a case as done, and show the progress."""
        with self._lock:
            self.done += 1
            now = time.monotonic()
            terminal = sys.stderr.isatty()
            if now - self._shown < _EVERY * (1 if terminal else 20) and self.done < self.total:
                return
            self._shown = now
            found = sum(map(len, self.violations.values()))
            text = f"{self.done:,} of {self.total:,} cases, {found:,} violations, {now - self._began:.0f} s"
            sys.stderr.write(f"\r{text}" if terminal else f"{text}\n")
            sys.stderr.flush()

    def violation(
        self, row: str, column: str, case: str, said: str, files: Mapping[str, bytes | Path]
    ) -> None:
        """Record a violation.

        Args:
            row: of the table.
            column: kind of the violation.
            case: name that repeats it with --case.
            said: what was seen: exit code, output.
            files: name → content, or a file or folder to copy, which are kept.
        """
        self.count(row, column)
        with self._lock:
            same = self.violations.setdefault((row, column, cause_of(said)), [])
            same.append(case)
            if len(same) > MOST_KEPT:
                return
        first = said.partition("\n")[0].partition(",")[0]
        folder = self.kept / re.sub(r"[^\w.]+", "-", f"{case} {column} {first}"[:100])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "seen.txt").write_text(said, "utf-8", errors="replace")
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            elif content.is_dir():
                shutil.copytree(content, folder / name, dirs_exist_ok=True)
            elif content.is_file():
                shutil.copyfile(content, folder / name)

    def finish(self, first: str, columns: Mapping[str, str]) -> int:
        """Print the table and the violations; return the exit code.

        Args:
            first: title of the first column.
            columns: name → title.
        """
        if sys.stderr.isatty():
            sys.stderr.write("\n")
        rows = list(dict.fromkeys(row for row, _ in self.counts))
        lines = [[first, *columns.values()]]
        lines += [[row, *(f"{self.counts[row, c]:,}" for c in columns)] for row in rows]
        sums = [sum(self.counts[row, c] for row in rows) for c in columns]
        lines.append(["all", *(f"{n:,}" for n in sums)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]
            print("  ".join(cells))
        print(f"{self.done:,} of {self.total:,} cases in {self.seconds:.0f} s")
        for (row, column, cause), found in sorted(self.violations.items()):
            print(
                f"violation: {row}: {column}, {len(found)} times, first in --case {found[0]}\n    {cause}"
            )
        if self.violations:
            print(f"their inputs are in {self.kept}")
        if self.done < self.total:
            print("stopped before the end: the time was used up")
        return 1 if self.violations or self.done < self.total else 0


def cause_of(said: str) -> str:
    """Return the first line of what was seen, and the last that names an error, without numbers and paths."""
    lines = said.strip().splitlines() or [""]
    causes = ["".join(found) for found in _CAUSE.findall(said)]
    text = re.sub(r"/[\w./-]*/", "", causes[-1] if causes else lines[-1])
    return f"{lines[0]}: {re.sub(r'[0-9]+', 'N', text)[:150]}"


def parser_for(doc: str | None, kept: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all attacks share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="repeats an earlier run (default: 1)")
    parser.add_argument("--quick", action="store_true", help="a few cases, in seconds")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="limit of time (default: 10 minutes)"
    )
    parser.add_argument("--cases", type=int, help="at most this many, of all kinds alike")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at once")
    parser.add_argument("--case", default="", help="repeat this case only, as a violation names it")
    parser.add_argument(
        "--kept", type=Path, default=Path(tempfile.gettempdir()) / kept,
        help="folder for the inputs of violations (default: %(default)s)",
    )  # fmt: skip
    return parser


@contextmanager
def workplace(prefix: str) -> Iterator[Path]:
    """Yield a temporary folder."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def faults_of(
    code: int,
    output: str,
    allowed: set[int],
    *,
    late: bool = False,
    memory: int = 0,
    limit: int = 0,
) -> Iterator[str]:
    """Yield the violations that a process's end shows: the columns of the tables.

    Args:
        code: exit code, or minus the signal.
        output: of the process.
        allowed: exit codes, and minus signals, that are allowed.
        late: whether it was killed after its time.
        memory: bytes that it used.
        limit: bytes that it may use; 0 for unlimited.
    """
    if late or code in (-24, -31):  # SIGXCPU
        yield "hang"
    elif code < 0 and code not in allowed:
        yield "signal"
    elif code not in allowed:
        yield "exit code"
    if any(map(OURS.search, output.split("Traceback (most recent call last)")[1:])):
        yield "traceback"  # one without a frame of ours is of Python's own start
    if (limit and memory > limit) or "out of memory" in output or "MemoryError" in output:
        yield "memory"
    if len(output) > 100_000:
        yield "noise"
    if "\x1b" in output:
        yield "escape"
