"""Rows scaled by 1 % in files quantized with an importance matrix: how many `verify` finds without and with the matrix.

Only tensors are compared, since the logits do not depend on whether the matrix is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.planted_faults import FAULTS, PlantedFile
from quantize import QuantizeOptions, quantize
from quantize.imatrix import GatherOptions, gather, read_imatrix
from tests.support.verify_lab import Lab
from turbopilot.app.verification import Floats, target_of
from turbopilot.corpus import calibration_text
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.verify.tensor_errors import tensor_errors

# Types whose rows need the importance matrix to be judged exactly.
TYPES: Final = (
    "q4_0", "q4_1", "q5_0", "q5_1", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
)  # fmt: skip
FAULT: Final = "row scaled by 1 %"


@dataclass(frozen=True, slots=True)
class MatrixJudged:
    """Verdict on one file; `named` is whether the faulty tensor was found, `wrong` are all tensors found wrong."""

    family: str
    type_name: str
    is_sound: bool
    is_known: bool  # whether the matrix was given
    named: bool
    wrong: tuple[str, ...]


def own_matrix(model: Path, path: Path) -> Path:
    """Write the importance matrix of a model, gathered over a few thousand tokens of code."""
    options = GatherOptions("calibration", chunks=64, chunk_size=64)
    gather(model, path, calibration_text(), options, force=True)
    return path


def with_matrix(lab: Lab, family: str, each: int, seed: int) -> Iterator[MatrixJudged]:
    """Judge files quantized with the model's own matrix: sound ones, and `each` with a scaled row, of every type."""
    matrix = own_matrix(lab.gguf("f32"), lab.folder / "matrix.gguf")
    known = read_imatrix(matrix).means()
    target = target_of(lab.checkpoint)
    right, faulty = lab.folder / "with_matrix.gguf", lab.folder / "faulty.gguf"

    def judged(path: Path, type_name: str, named: list[str]) -> Iterator[MatrixJudged]:
        choices: tuple[Mapping[str, Floats], ...] = ({}, known)
        for importance in choices:
            with target() as whole:
                found = tensor_errors(read_gguf(path), whole, importance=importance)
            wrong = tuple(e.name for e in found if e.wrong)
            yield MatrixJudged(
                family, type_name, not named, bool(importance), bool({*named} & {*wrong}), wrong
            )

    for type_name in TYPES:
        options = QuantizeOptions(imatrix=matrix)
        for source in ("f16", "f32"):
            quantize(lab.gguf(source), right, type_name.upper(), options, force=True)
            yield from judged(right, type_name, [])
        for i in range(each):
            rng = np.random.default_rng(zlib.crc32(f"{seed} {i} {family} {type_name}".encode()))
            planted = PlantedFile.of(right, lab.gguf("f32"), faulty, known)
            yield from judged(faulty, type_name, FAULTS[FAULT](planted, rng))


def show(results: list[MatrixJudged]) -> None:
    """Print how many faults were found of each type, and the sound files that were refused."""
    for type_name in (*TYPES, ""):
        parts = []
        for is_known in (False, True):
            of_type = [
                r
                for r in results
                if not r.is_sound and r.is_known is is_known and type_name in ("", r.type_name)
            ]
            how = "with" if is_known else "without"
            parts.append(f"{sum(r.named for r in of_type)} of {len(of_type)} {how} the matrix")
        print(f"{type_name or 'all':>8}: {FAULT}, found: {', '.join(parts)}")
    for is_known in (False, True):
        sound = [r for r in results if r.is_sound and r.is_known is is_known]
        refused = [r for r in sound if r.wrong]
        how = "with" if is_known else "without"
        print(f"sound files refused {how} the matrix: {len(refused)} of {len(sound)}")
        for r in refused:
            print(f"  {r.family}, {r.type_name}: {', '.join(r.wrong[:5])}")
