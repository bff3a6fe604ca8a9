#!/usr/bin/env python3
"""Feed mutated model files to every command that reads them. Run by scripts/attack_files.

    scripts/attack_files                          # 2,050 mutations, ten minutes at most
    scripts/attack_files --quick                  # a few of each kind, in seconds
    scripts/attack_files --case gguf:17           # one mutation again, as a violation names it

Each command runs in a child process with limits of CPU time, memory and written bytes. A file may be refused, with one
of the documented exit codes. Violations, which are exit code 1 here: death by a signal, more than 20 s of CPU or 2
minutes, a traceback, more than 1 GiB, an output that is torn or a leftover of one, an exit code that is not documented,
more than 100 kB of output, terminal escapes, and of a server a status of 500 and above but 503.
Needs Linux: it reads /proc and sets limits of processes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

from attack.file_kinds import KINDS, MORE_TORCH, Kind
from attack.file_runs import feed
from attack.processes import MODULES, TORCH_MODULES, ForkServer, ForkServers, Limits
from attack.samples import Samples, make_samples
from attack.tally import Tally, parser_for, workplace

LIMITS = Limits()
FAULTS = ("signal", "hang", "traceback", "memory", "torn", "exit code", "status 5xx", "noise", "escape")  # fmt: skip
COLUMNS = {"mutations": "mutations", "runs": "runs", "refused": "refused", **{f: f for f in FAULTS}}
QUICK = 3  # mutations of each kind


def cases(args: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Yield kind and index of each mutation; kinds take turns, so that a run cut short has all of them."""
    if args.case:
        name, _, index = args.case.rpartition(":")
        yield name, int(index)
        return
    counts = {name: QUICK if args.quick else kind.count for name, kind in KINDS.items()}
    counts = {n: c for n, c in counts.items() if not args.kinds or n in args.kinds}
    order = [(i / count, name, i) for name, count in counts.items() for i in range(count)]
    yield from ((name, i) for _, name, i in sorted(order)[: args.cases])


def attack(
    tally: Tally, args: argparse.Namespace, samples: Samples, servers: ForkServers, torch: ForkServers,
    place: Path, case: tuple[str, int],
) -> None:  # fmt: skip
    """Make one mutation, and feed it to its readers."""
    name, index = case
    if tally.is_over:
        return
    kind = KINDS[name]
    rng, folder = Random(f"{args.seed} {name} {index}"), place / f"{name.replace(' ', '-')}-{index}"
    source, data = _placed(kind, rng, samples, folder)
    tally.count(name, "mutations")
    for reader in kind.readers:
        needs_torch = reader.name == MORE_TORCH
        if index % reader.every or (needs_torch and args.quick):
            continue
        server = torch.mine if needs_torch else servers.mine
        seen = feed(server, reader, source, samples, LIMITS, replaces=index % 4 < 2)
        tally.count(name, "runs")
        tally.count(name, "refused", int(seen.ended.code > 0))
        for fault in seen.faults:
            label = f"{name}:{index}"
            tally.violation(name, fault, label, f"{reader.name}\n{seen.said}", {kind.name: data})
        shutil.rmtree(folder / "output", ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    tally.step()


def _placed(kind: Kind, rng: Random, samples: Samples, folder: Path) -> tuple[Path, bytes]:
    if kind.name == "{prefix}" and samples.prefix:
        source, data = kind.place(rng, samples, folder)
        return source.rename(source.with_name(samples.prefix.name)), data
    return kind.place(rng, samples, folder)


def run(args: argparse.Namespace, place: Path) -> int:
    """Attack with the options, in a temporary folder; return the exit code."""
    todo = list(cases(args))
    (place / "samples").mkdir()
    maker = ForkServer(place)
    try:
        samples = make_samples(place / "samples", maker)
    finally:
        maker.close()
    tally = Tally(args.kept, 60 * args.minutes, len(todo))
    print(f"seed {args.seed}, {len(todo):,} mutations, {args.jobs} at once", flush=True)
    servers, torch = ForkServers(place), ForkServers(place, (*MODULES, *TORCH_MODULES))
    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            work = partial(attack, tally, args, samples, servers, torch, place)
            for _ in pool.map(work, todo):
                pass
    finally:
        servers.close()
        torch.close()
    return tally.finish("file", COLUMNS)


def main() -> None:
    parser = parser_for(__doc__, "turbopilot-attack-files")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="only these kinds of files")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started
    with workplace("turbopilot-attack-") as place:
        sys.exit(run(args, place))


if __name__ == "__main__":
    main()
