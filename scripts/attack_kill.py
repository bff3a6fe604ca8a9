#!/usr/bin/env python3
"""Kill commands at random moments, and let two write one file at once. Run by scripts/attack_kill.

    scripts/attack_kill                           # 325 kills and 116 pairs, ten minutes at most
    scripts/attack_kill --quick                   # a few of each, in seconds
    scripts/attack_kill --case 'kill convert:3'   # one case again, as a violation names it

A case of kills is one folder in which a command is killed five times (SIGKILL, SIGTERM, SIGINT) and then left alone.
A case of pairs is one folder in which two commands write the same name at once. Violations, which are exit code 1 here:
a file under its final name that is not whole and equal to an undisturbed run's, a leftover after a run that was left
alone, a process that outlives its command, a traceback, an exit code that the signal does not explain, and no end 60 s
after a signal.
Needs Linux: it reads /proc and sets limits of processes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Final

from attack.processes import MODULES, TORCH_MODULES, ColdProcess, Ended, ForkServer, Limits
from attack.samples import Samples, make_samples
from attack.tally import OURS, Tally, faults_of, parser_for, workplace
from attack.writers import WRITERS, Writer, faults_in, hub_with

KILLS_A_CASE: Final = 5
WALL: Final = 60.0  # seconds to end after SIGINT and SIGTERM
UNDISTURBED: Final = 300.0  # seconds for a command that is left alone
ORPHANS: Final = 15.0  # seconds after which a child must have noticed that its parent is gone
# exit codes and minus signals that each signal explains, besides 0 of a command that was faster
EXPLAINED: Final = {
    signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 130, 143}, signal.SIGINT: {-2, 130},
}  # fmt: skip
FAULTS: Final = (
    "torn",
    "missing",
    "left over",
    "orphan",
    "traceback",
    "exit code",
    "hang",
    "signal",
    "memory",
)
COLUMNS: Final = {
    "kills": "kills",
    "pairs": "pairs",
    "in time": "in time",
    **{f: f for f in FAULTS},
}


class Attack:
    """Samples, undisturbed runs and warm processes of a run."""

    def __init__(
        self, args: argparse.Namespace, samples: Samples, home: Path, url: str, tally: Tally
    ) -> None:
        self._args, self._samples, self._home, self._url = args, samples, home, url
        self.tally = tally
        self._seconds: dict[str, float] = {}  # writer → of its last undisturbed run
        self._warm: list[list[ForkServer]] = []

    def _cold(self, writer: Writer, words: Sequence[str], folder: Path, output: str) -> ColdProcess:
        variables = {
            "TURBOPILOT_CACHE": str(folder / "cache"),
            **writer.variables(folder, self._url),
        }
        return ColdProcess(words, folder, self._home, self._home / f"{output}.txt", **variables)

    def undisturbed(self, name: str) -> None:
        """Run a writer, and its rival, alone in folders of their own; their files are what others are compared with."""
        writer = WRITERS[name]
        for rival, arguments in enumerate((writer.arguments, writer.rival)):
            if arguments is None:
                continue
            folder = self._folder(f"alone {name} {rival}", writer)
            began = time.monotonic()
            words = arguments(folder, self._samples)
            ended = self._cold(writer, words, folder, folder.name).finish(UNDISTURBED)
            if ended.code:
                raise RuntimeError(f"{' '.join(words)} ended with {ended.code}:\n{ended.output}")
            self._seconds[name] = time.monotonic() - began

    def _folder(self, case: str, writer: Writer) -> Path:
        folder = self._home / case.replace(" ", "-").replace(":", "-")
        folder.mkdir(exist_ok=True)
        writer.before(folder, self._samples)
        return folder

    def _wanted(self, name: str) -> tuple[Path, ...]:
        return tuple(self._home / f"alone-{name.replace(' ', '-')}-{i}" for i in range(2))

    def kills(self, name: str, index: int) -> None:
        """Kill a command five times, and run it once more."""
        case, writer = f"kill {name}:{index}", WRITERS[name]
        rng, folder = Random(f"{self._args.seed} {case}"), self._folder(case, writer)
        for n in range(KILLS_A_CASE):
            writer.before(folder, self._samples)
            for output in writer.outputs:
                if rng.random() < 0.5 and "signed" not in output:
                    (folder / output).unlink(missing_ok=True)
            number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            moment, waits = rng.uniform(0, 1.1 * self._seconds[name]), rng.random() < 0.5
            words = writer.arguments(folder, self._samples)
            process = self._cold(writer, words, folder, f"{folder.name}-output")
            _wait_for_moment(process, folder, moment, for_part=waits, beyond=rng.uniform(0, 0.02))
            process.signal(number)
            ended = process.finish(WALL)
            self.tally.count(f"kill {name}", "kills")
            self.tally.count(f"kill {name}", "in time", int(ended.code == 0))
            explained = {0, *EXPLAINED[number], *({1} if _of_python(ended.output) else ())}
            faults = faults_of(ended.code, ended.output, explained, late=ended.late)
            found = [(fault, "") for fault in faults]
            if left := process.orphans(ORPHANS):
                found.append(("orphan", "\n".join(left)))
            found += faults_in(writer, folder, self._wanted(name), ended_well=False)
            self._record(f"kill {name}", case, f"{number.name} {n}", words, ended, found, folder)
        self._run_alone(name, case, folder)
        shutil.rmtree(folder, ignore_errors=True)
        self.tally.step()

    def _run_alone(self, name: str, case: str, folder: Path) -> None:
        writer = WRITERS[name]
        words = writer.arguments(folder, self._samples)
        began = time.monotonic()
        ended = self._cold(writer, words, folder, f"{folder.name}-output").finish(UNDISTURBED)
        self._seconds[name] = time.monotonic() - began
        found = [(f, "") for f in faults_of(ended.code, ended.output, {0}, late=ended.late)]
        found += faults_in(writer, folder, self._wanted(name), ended_well=True)
        self._record(f"kill {name}", case, "after the kills", words, ended, found, folder)

    def pair(self, name: str, index: int, warm: Sequence[ForkServer]) -> None:
        """Let a writer and its rival write the same names at once."""
        case, writer = f"pair {name}:{index}", WRITERS[name]
        rng, folder = Random(f"{self._args.seed} {case}"), self._folder(case, writer)
        commands = [writer.arguments, writer.rival or writer.arguments]
        rng.shuffle(commands)
        words = [c(folder, self._samples) for c in commands]
        variables = {
            "TURBOPILOT_CACHE": str(folder / "cache"),
            **writer.variables(folder, self._url),
        }
        for server, arguments in zip(warm, words, strict=True):
            server.begin(arguments, folder, Limits(cpu=60, wall=UNDISTURBED), **variables)
            time.sleep(rng.choice((0.0, rng.uniform(0, 0.1))))
        both = [server.finish() for server in warm]
        row = f"pair {name}"
        self.tally.count(row, "pairs")
        self.tally.count(row, "in time", int(all(e.code == 0 for e in both)))
        for ended, arguments in zip(both, words, strict=True):
            found = [
                (f, "")
                for f in faults_of(ended.code, ended.output, {0, 2, 3, 5, 6}, late=ended.late)
            ]
            self._record(row, case, "one of two", arguments, ended, found, folder)
        found = list(
            faults_in(writer, folder, self._wanted(name), ended_well=any(e.code == 0 for e in both))
        )
        self._record(row, case, "both", words[0], both[1], found, folder)
        shutil.rmtree(folder, ignore_errors=True)
        self.tally.step()

    def _record(
        self, row: str, case: str, when: str, words: Sequence[str], ended: Ended,
        found: Sequence[tuple[str, str]], folder: Path,
    ) -> None:  # fmt: skip
        for fault, seen in found:
            said = f"{fault}, {when}: {seen}\nturbopilot {' '.join(words)}\nexit code {ended.code}\n{ended.output}"
            self.tally.violation(row, fault, case, said, {"folder": folder})


def _of_python(output: str) -> bool:
    """Return whether SIGINT met Python's own start, before any line of ours: it ends with code 1 and a traceback."""
    return "KeyboardInterrupt" in output and not OURS.search(output)


def _wait_for_moment(
    process: ColdProcess, folder: Path, moment: float, *, for_part: bool, beyond: float
) -> None:
    """Wait `moment` seconds; or, `for_part`, until a part of an output appears, and `beyond` seconds more."""
    if not for_part:
        process.ended(moment)
        return
    while not process.ended(0.001):
        if (
            any(folder.glob("*.part"))
            or any(folder.glob("to/*.part"))
            or any(folder.glob("hf/hub/*/blobs/*.part"))
        ):
            process.ended(beyond)
            return


def cases(args: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Return (kill or pair, writer, index) of each case; all writers take turns."""
    if args.case:
        what, _, rest = args.case.partition(" ")
        name, _, index = rest.rpartition(":")
        return [(what, name, int(index))]
    found: list[tuple[float, str, str, int]] = []
    for name, writer in WRITERS.items():
        for what, count in (("kill", -(-writer.kills // KILLS_A_CASE)), ("pair", writer.pairs)):
            found += [((i + 0.5) / count, what, name, i) for i in range(count)]
    ordered = [(what, name, i) for _, what, name, i in sorted(found)]
    if args.quick:
        ordered = [("kill", "quantize", 0), ("pair", "convert", 0)]
    return ordered[: args.cases]


def run(args: argparse.Namespace, home: Path) -> int:
    """Attack with the options; return the exit code."""
    (home / "samples").mkdir()
    maker = ForkServer(home)
    try:
        samples = make_samples(home / "samples", maker, prefix=False)
    finally:
        maker.close()
    todo = cases(args)
    tally = Tally(args.kept, 60 * args.minutes, len(todo))
    warm: list[ForkServer] = []
    with hub_with(samples) as hub:
        attack = Attack(args, samples, home, hub.url, tally)
        for name in dict.fromkeys(name for _, name, _ in todo):
            attack.undisturbed(name)
        print(f"seed {args.seed}, {len(todo):,} cases, {args.jobs} at once", flush=True)
        try:
            needs = any(WRITERS[name].needs_torch for what, name, _ in todo if what == "pair")
            if any(what == "pair" for what, _, _ in todo):
                warm += [
                    ForkServer(home, (*MODULES, *(TORCH_MODULES if needs else ())))
                    for _ in range(2)
                ]
            _all(args, attack, todo, warm, tally)
        finally:
            for server in warm:
                server.close()
    return tally.finish("case", COLUMNS)


def _all(
    args: argparse.Namespace, attack: Attack, todo: Sequence[tuple[str, str, int]], warm: Sequence[ForkServer],
    tally: Tally,
) -> None:  # fmt: skip
    """Run the pairs one after another in one thread, beside kills in the others."""

    def each(chosen: Iterator[tuple[str, str, int]], work: Callable[[str, int], None]) -> None:
        for _, name, index in chosen:
            if tally.is_over:
                return
            work(name, index)

    kills = iter([t for t in todo if t[0] == "kill"])
    pairs = iter([t for t in todo if t[0] == "pair"])
    with ThreadPoolExecutor(args.jobs + 1) as pool:
        work = [pool.submit(each, kills, attack.kills) for _ in range(args.jobs)]
        work.append(pool.submit(each, pairs, lambda name, i: attack.pair(name, i, warm)))
        for done in work:
            done.result()


def main() -> None:
    args = parser_for(__doc__, "turbopilot-attack-kill").parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started
    with workplace("turbopilot-attack-") as home:
        sys.exit(run(args, home))


if __name__ == "__main__":
    main()
