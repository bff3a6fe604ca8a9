#!/usr/bin/env python3
"""Count how many planted faults `verify` refuses and names, and how many sound files it refuses.

    python scripts/bench_judge.py                            # all families, faults and sound files: half an hour
    python scripts/bench_judge.py --families llama --each 4  # one family, four faults of each type
    python scripts/bench_judge.py --sound                    # only sound files
    python scripts/bench_judge.py --sizes --families llama   # the smallest size of each fault that is refused
    python scripts/bench_judge.py --imatrix --families llama,codegen  # rows scaled by 1 %, with and without the matrix
    python scripts/bench_judge.py --no-tensors               # without the comparison of every row
    python scripts/bench_judge.py --time 350M                # seconds that the comparison of rows adds to a run

A fault is refused if `verify` fails, or cannot load the file. It is named if a line of the report has the name of the
faulty tensor or key. Models are tiny and random, one of each family of tests/support. A fault that a family cannot have
(an expert in a dense model) is drawn again. Sound files are of every type, with and without the model's importance
matrix, and with tied embeddings. `--json` writes all results, for tables of several runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench import matrix_judge  # noqa: E402
from bench.matrix_judge import own_matrix  # noqa: E402
from bench.planted_faults import FAULTS, PlantedFile, sizes  # noqa: E402
from bench.random_checkpoint import GEOMETRY, make_checkpoint  # noqa: E402

from converters import convert  # noqa: E402
from quantize import QuantizeOptions, quantize  # noqa: E402
from tests.support.tiny import FAMILY  # noqa: E402
from tests.support.verify_lab import Lab  # noqa: E402
from turbopilot.app.verification import target_of  # noqa: E402
from turbopilot.base.errors import TurboPilotError  # noqa: E402
from turbopilot.formats.gguf.file import read_gguf  # noqa: E402
from turbopilot.verify import VerifyOptions, verify  # noqa: E402
from turbopilot.verify.tensor_errors import tensor_errors  # noqa: E402
from turbopilot.verify.texts import token_battery  # noqa: E402

TYPES = ("f32", "q8_0", "q4_k_m", "iq3_s")
SOUND = (
    "f32",
    "f16",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q4_k_m",
    "q4_0",
    "q5_0",
    "iq4_xs",
    "q3_k_m",
    "iq3_s",
)
WITH_MATRIX = ("q4_k_m", "q4_0", "iq4_nl")
TIED = ("llama", "qwen2", "starcoder2", "mistral")
POSITIONS = 500


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdict on one file: `fault` is "" for a sound one, `size` is 0 unless it was varied."""

    family: str
    type_name: str
    fault: str
    size: float
    refused: bool
    named: bool
    message: str


def judge(lab: Lab, path: Path, words: list[str], what: tuple[str, str, str, float]) -> Judged:
    """Return the verdict on a file that is faulty if there are `words` that name the fault."""
    tensors = CHOICE.get("tensors", True)
    try:
        report = lab.judge(path, token_battery(), positions=POSITIONS, tensors=tensors)
        lines = [f"{f.check} {f.message}" for f in report.failures]
        lines += [f"{f.cause} {f.message}" for f in report.findings]
        refused = not report.passed
    except TurboPilotError as e:
        refused, lines = True, [e.message]
    found = any(word in line for word in words for line in lines)
    return Judged(*what, refused, refused and found, "; ".join(lines)[:600] if refused else "")


CHOICE: dict[str, bool] = {}


def faulty(lab: Lab, family: str, each: int, seed: int) -> Iterator[Judged]:
    """Judge `each` files of every type, with faults drawn without repetition."""
    for type_name in TYPES:
        rng = np.random.default_rng(zlib.crc32(f"{seed} {family} {type_name}".encode()))
        left: list[str] = []
        done = 0
        while done < each:
            left = left or [str(name) for name in rng.permutation(list(FAULTS))]
            fault = left.pop()
            path = lab.folder / "faulty.gguf"
            planted = PlantedFile.of(lab.gguf(type_name), lab.gguf("f32"), path)
            if words := FAULTS[fault](planted, rng):
                yield judge(lab, path, words, (family, type_name, fault, 0.0))
                done += 1


def varied(lab: Lab, family: str, seed: int) -> Iterator[Judged]:
    """Judge three faults of every kind and size in every type."""
    for type_name in TYPES:
        for kind, size, plant in sizes():
            for i in range(3):
                rng = np.random.default_rng(zlib.crc32(f"{seed} {i} {kind} {family}".encode()))
                path = lab.folder / "faulty.gguf"
                planted = PlantedFile.of(lab.gguf(type_name), lab.gguf("f32"), path)
                if words := plant(planted, rng):
                    yield judge(lab, path, words, (family, type_name, kind, size))


def sound(lab: Lab, family: str, types: tuple[str, ...] = SOUND) -> Iterator[Judged]:
    """Judge sound files of many types, with and without an importance matrix."""
    for type_name in types:
        yield judge(lab, lab.gguf(type_name), [], (family, type_name, "", 0.0))
    matrix = own_matrix(lab.gguf("f32"), lab.folder / "matrix.gguf")
    path = lab.folder / "sound.gguf"
    for type_name in WITH_MATRIX if types is SOUND else WITH_MATRIX[:2]:
        options = QuantizeOptions(imatrix=matrix)
        quantize(lab.gguf("f32"), path, type_name.upper(), options, force=True)
        yield judge(lab, path, [], (family, f"{type_name} with a matrix", "", 0.0))
    for type_name in ("q4_k_m", "q8_0"):  # from the F16 file, as most files are
        quantize(lab.gguf("f16"), path, type_name.upper(), force=True)
        yield judge(lab, path, [], (family, f"{type_name} from f16", "", 0.0))


def judged(family: str, arguments: argparse.Namespace) -> Iterator[Judged]:
    """Judge the files of one family."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(family, Path(folder) / "plain")
        if arguments.sizes:
            yield from varied(lab, family, arguments.seed)
        elif not arguments.sound:
            yield from faulty(lab, family, arguments.each, arguments.seed)
        if not arguments.faults and not arguments.sizes:
            yield from sound(lab, family)
            if family in TIED:
                shutil.rmtree(lab.folder)
                tied = Lab(family, Path(folder) / "tied", tie_word_embeddings=True)
                yield from sound(tied, f"{family}, tied", ("f32", "q4_k_m", "q4_0", "iq3_s"))


def judge_with_matrix(families: list[str], each: int, seed: int) -> None:
    """Print how many scaled rows are found in files with an importance matrix, without and with it."""
    found: list[matrix_judge.MatrixJudged] = []
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(family, Path(folder))
            found += matrix_judge.with_matrix(lab, family, each, seed)
        print(f"{family}: {len(found)} verdicts", file=sys.stderr, flush=True)
    matrix_judge.show(found)


def seconds(geometry: str) -> None:
    """Print the seconds of `verify` with and without the rows, first without the reference's cached results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder / "checkpoint", geometry)
        convert(folder / "checkpoint", folder / "f16.gguf", dtype="f16")
        for type_name in ("Q8_0", "Q4_K_M"):
            quantize(folder / "f16.gguf", folder / f"{type_name}.gguf", type_name)
        target = target_of(folder / "checkpoint")
        for type_name, what in (("Q8_0", "first file"), ("Q4_K_M", "second file")):
            path = folder / f"{type_name}.gguf"
            spent = []
            options = VerifyOptions(cache=folder / "cache", tensors=False)
            began = time.perf_counter()
            list(verify([path], folder / "checkpoint", options, target=target))
            spent.append(time.perf_counter() - began)
            began = time.perf_counter()
            with target() as whole:
                wrong = [e.name for e in tensor_errors(read_gguf(path), whole) if e.wrong]
            spent.append(time.perf_counter() - began)
            ratio = 1 + spent[1] / spent[0]
            print(
                f"{geometry} {type_name}, {what}: {spent[0]:.0f} s without the rows, {spent[1]:.0f} s for the rows: "
                f"{ratio:.2f} times; wrong tensors: {wrong}"
            )


def show(results: list[Judged]) -> None:
    """Print the tables: faults by type, smallest sizes, and sound files that were refused."""
    planted = [r for r in results if r.fault and not r.size]
    for type_name in dict.fromkeys(r.type_name for r in planted):
        print(f"{type_name:>8}: {_counts([r for r in planted if r.type_name == type_name])}")
    by_fault: dict[str, list[Judged]] = defaultdict(list)
    for r in planted:
        by_fault[r.fault].append(r)
    for fault in FAULTS:
        of_fault = [r for r in by_fault.get(fault, ()) if r.type_name in TYPES]
        if of_fault:
            parts = (
                f"{t} {sum(r.named for r in of_fault if r.type_name == t)}/"
                f"{sum(r.refused for r in of_fault if r.type_name == t)}/"
                f"{sum(r.type_name == t for r in of_fault)}"
                for t in TYPES
            )
            print(f"{fault:>24} (named/refused/planted): {', '.join(parts)}")
    for kind in dict.fromkeys(r.fault for r in results if r.size):
        for type_name in TYPES:
            smallest = [
                r for r in results if (r.fault, r.type_name) == (kind, type_name) and r.size
            ]
            sizes_ = sorted({r.size for r in smallest}, reverse=True)
            least = None
            for size in sizes_:
                if not all(r.refused for r in smallest if r.size == size):
                    break
                least = size
            if smallest:
                shown = f"{least:.3%}" if least else f"none up to {sizes_[0]:.0%}"
                print(f"{kind:>20}, {type_name}: smallest refused each time {shown}")
    if healthy := [r for r in results if not r.fault]:
        print(f"sound files refused: {sum(r.refused for r in healthy)} of {len(healthy)}")
        for r in healthy:
            if r.refused:
                print(f"  {r.family}, {r.type_name}: {r.message[:200]}")


def _counts(results: list[Judged]) -> str:
    n = max(1, len(results))
    refused, named = sum(r.refused for r in results), sum(r.named for r in results)
    return f"{n} faults, {refused} refused ({refused / n:.1%}), {named} named ({named / n:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--families", default=",".join(FAMILY))
    parser.add_argument("--each", type=int, default=10, help="faults of each type in a family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", action="store_true", help="no sound files")
    parser.add_argument("--sound", action="store_true", help="only sound files")
    parser.add_argument("--sizes", action="store_true", help="vary the size of faults instead")
    parser.add_argument(
        "--imatrix", action="store_true", help="only rows scaled by 1 %%, with a matrix"
    )
    parser.add_argument("--no-tensors", action="store_true", help="as with verify --no-tensors")
    parser.add_argument("--json", type=Path, help="file to append the results to, one a line")
    parser.add_argument("--show", type=Path, help="print the tables of such a file, and end")
    parser.add_argument(
        "--time", choices=GEOMETRY, help="measure the speed with this geometry instead"
    )
    arguments = parser.parse_args()
    if arguments.time:
        seconds(arguments.time)
        return
    if arguments.show:
        lines = arguments.show.read_text("utf-8").splitlines()
        show([Judged(**json.loads(line)) for line in lines])
        return
    if arguments.imatrix:
        judge_with_matrix(arguments.families.split(","), arguments.each, arguments.seed)
        return
    if arguments.no_tensors:
        CHOICE["tensors"] = False
    results = []
    for family in arguments.families.split(","):
        for result in judged(family, arguments):
            results.append(result)
            if arguments.json:
                with arguments.json.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(asdict(result)) + "\n")
        print(f"{family}: {len(results)} files judged", file=sys.stderr, flush=True)
    show(results)


if __name__ == "__main__":
    main()
