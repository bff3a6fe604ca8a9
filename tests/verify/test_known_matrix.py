"""Rows of files whose importance matrix is known: a row scaled by 1 % is found, and correct files have none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from converters import convert
from quantize import QuantizeOptions, quantize
from quantize.imatrix import Entry, Imatrix, read_imatrix, write_imatrix
from tests.support.gguf_faults import rows, tensor
from tests.support.tiny import tiny_checkpoint
from turbopilot.app.verification import Floats, target_of
from turbopilot.base.errors import InvalidInput
from turbopilot.cli import app
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.rounding import Rounding
from turbopilot.verify.level_grids import changed
from turbopilot.verify.report import TokenResult, VerifyReport
from turbopilot.verify.row_figures import StoredRows
from turbopilot.verify.tensor_errors import TensorError, tensor_errors
from turbopilot.verify.verification import VerifyOptions, explained

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ1_M")
GGML = Rounding()


class MatrixLab:
    """Files of a tiny model quantized with an uneven importance matrix, which differs between the matrices of a stack.

    Only tensors are compared.
    """

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = tiny_checkpoint(family, folder / "c")
        for kind in ("f32", "f16"):
            convert(self.checkpoint, folder / f"{kind}.gguf", dtype=kind)
        self.matrix = self.random_matrix(1)
        self.known = read_imatrix(self.matrix).means()

    def random_matrix(self, seed: int) -> Path:
        rng = np.random.default_rng(seed)
        entries = {}
        for t in read_gguf(self.folder / "f32.gguf").tensors:
            if len(t.shape) > 1 and t.name.startswith("blk."):
                n = t.shape[2] if len(t.shape) > 2 else 1
                sums = np.exp(1.5 * rng.standard_normal((n, t.shape[0]))).astype(np.float32)
                entries[t.name] = Entry(sums, np.full(n, 7, np.int64))
        path = self.folder / f"matrix{seed}.gguf"
        write_imatrix(path, Imatrix(entries, ("uneven",), 1, 1))
        return path

    def gguf(self, kind: str, source: str = "f32") -> Path:
        path = self.folder / f"{kind} of {source}.gguf"
        if not path.exists():
            options = QuantizeOptions(imatrix=self.matrix)
            quantize(self.folder / f"{source}.gguf", path, kind, options)
        return path

    def scaled(self, kind: str, name: str, row: int) -> Path:
        """Scale a row by 1 % before it is quantized, and put it into a copy of the correct file."""
        path = self.folder / "scaled.gguf"
        path.write_bytes(self.gguf(kind).read_bytes())
        exact = rows(self.folder / "f32.gguf", tensor(read_gguf(self.folder / "f32.gguf"), name))
        info = tensor(read_gguf(path), name)
        stored = StoredRows(info, GGML, self.known[name].reshape(-1, info.shape[0]))
        values = exact.view(np.float32).reshape(stored.n_rows, -1)[[row]] * np.float32(1.01)
        rows(path, info).reshape(stored.n_rows, -1)[row] = stored.quantized(np.array([row]), values)
        return path

    def errors(self, path: Path, importance: Mapping[str, Floats]) -> list[TensorError]:
        with target_of(self.checkpoint)() as target:
            return tensor_errors(read_gguf(path), target, importance=importance)

    def wrong(self, path: Path, importance: Mapping[str, Floats]) -> list[str]:
        return [e.name for e in self.errors(path, importance) if e.wrong]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> MatrixLab:
    return MatrixLab("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("kind", TYPES)
def test_row_scaled_by_one_percent_is_found_with_the_matrix(lab: MatrixLab, kind: str) -> None:
    name = "blk.1.ffn_up.weight"
    path = lab.scaled(kind, name, 17)
    (found,) = (e for e in lab.errors(path, lab.known) if e.wrong)
    assert found.name == name
    assert "row 17 of" in found.detail
    assert lab.wrong(path, {}) == []  # the gap that the matrix closes


@pytest.mark.parametrize("source", ["f32", "f16"])
@pytest.mark.parametrize("kind", [*TYPES, "Q4_K_M", "Q8_0"])
def test_correct_file_with_its_matrix_has_no_wrong_row(
    lab: MatrixLab, kind: str, source: str
) -> None:
    found = lab.errors(lab.gguf(kind, source), lab.known)
    assert not [e.name for e in found if e.wrong]
    assert {e.reproduced for e in found if e.type_name in TYPES and e.name in lab.known} <= {True}


def test_each_expert_has_its_own_part_of_the_matrix(tmp_path: Path) -> None:
    lab = MatrixLab("mixtral", tmp_path)
    assert lab.wrong(lab.gguf("Q4_0"), lab.known) == []
    name = "blk.0.ffn_up_exps.weight"
    info = tensor(read_gguf(lab.gguf("Q4_0")), name)
    path = lab.scaled("Q4_0", name, 3 * info.shape[1] + 5)
    (found,) = (e for e in lab.errors(path, lab.known) if e.wrong)
    assert (found.name, "row 5 of matrix 3" in found.detail) == (name, True)


def test_rows_of_another_matrix_are_not_taken_for_wrong(lab: MatrixLab) -> None:
    other = read_imatrix(lab.random_matrix(2)).means()
    found = lab.errors(lab.gguf("Q4_0"), other)
    assert not [e.name for e in found if e.wrong]
    tried = [e.reproduced for e in found if e.reproduced is not None]
    assert tried == [False] * len(other)


def test_another_matrix_is_refused(lab: MatrixLab) -> None:
    other = read_imatrix(lab.random_matrix(2)).means()
    header = read_gguf(lab.gguf("Q4_0"))
    tokens = TokenResult(0, 0, 0, None)
    report = VerifyReport("", "", {}, "llama", "Q4_0", 4.5, 0, 0, 0, tokens, {}, "")
    with pytest.raises(InvalidInput, match="were not quantized with this importance matrix"):
        explained(report, header, VerifyOptions(importance=other), target_of(lab.checkpoint))


def test_blocks_that_another_build_rounds_differently_are_not_wrong() -> None:
    packed = np.zeros((3, 18 * 8), np.uint8)
    again = packed.copy()
    again[1, : 18 * 4 : 18] = 1  # four of eight blocks
    again[2, : 18 * 5 : 18] = 1
    assert list(changed("Q4_0", packed, again) > 0) == [False, False, True]


def test_matrix_of_another_model_is_refused(lab: MatrixLab, tmp_path: Path) -> None:
    entries = {"blk.0.attn_q.weight": Entry(np.ones((1, 7), np.float32), np.ones(1, np.int64))}
    entries["blk.77.attn_q.weight"] = entries["blk.0.attn_q.weight"]
    write_imatrix(tmp_path / "m.gguf", Imatrix(entries, ("other",), 1, 1))
    for arguments, words in (
        (["--imatrix", str(tmp_path / "m.gguf")], ("7 columns", "blk.77.attn_q.weight")),
        (["--imatrix", str(lab.gguf("Q4_0"))], ("does not contain an importance matrix",)),
        (["--imatrix", str(lab.matrix), "--no-tensors"], ("--no-tensors skips",)),
    ):
        done = CliRunner().invoke(
            app, ["verify", str(lab.gguf("Q4_0")), "--against", str(lab.checkpoint), *arguments]
        )
        assert done.exit_code == 2, done.output
        for word in words:
            assert word in " ".join(str(done.exception or done.output).split()) + done.output
