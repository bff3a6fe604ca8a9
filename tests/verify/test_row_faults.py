"""Comparison of every row: a fault far below the noise of a type is found and named, and correct files have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import convert
from quantize import QuantizeOptions, quantize
from quantize.imatrix import Entry, Imatrix, write_imatrix
from tests.support.gguf_faults import rows, tensor
from tests.support.tiny import tiny_checkpoint
from turbopilot.app.verification import target_of
from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import TensorInfo, read_gguf
from turbopilot.llama.rounding import Rounding
from turbopilot.verify.diagnosis import CAUSES
from turbopilot.verify.row_figures import Array, ColumnFigures, RowFigures, StoredRows
from turbopilot.verify.row_verdict import suspects, wrong_columns
from turbopilot.verify.row_words import WrongRows, describe
from turbopilot.verify.tensor_errors import TensorError, gguf_target, tensor_errors

MATRIX, BIAS, NORM = "blk.1.ffn_down.weight", "blk.0.ffn_up.bias", "blk.1.attn_norm.weight"
Change = Callable[[Array], None]


class RowLab:
    """Files of a tiny CodeGen; only tensors are compared, so neither PyTorch nor llama.cpp runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkpoint = folder, tiny_checkpoint("codegen", folder / "c", n_layer=2)

    def gguf(self, kind: str) -> Path:
        path = self.folder / f"{kind}.gguf"
        if not path.exists() and kind in ("f32", "f16"):
            convert(self.checkpoint, path, dtype=kind)
        elif not path.exists():
            quantize(self.gguf("f32"), path, kind.upper())
        return path

    def faulty(self, kind: str, name: str, change: Change) -> Path:
        """Change a tensor before it is quantized, and put the rows that differ into a copy of the sound file."""
        path = self.folder / "faulty.gguf"
        path.write_bytes(self.gguf(kind).read_bytes())
        exact_file = self.gguf("f32")
        exact = rows(exact_file, tensor(read_gguf(exact_file), name)).view(np.float32)
        values = exact.copy()
        change(values)
        info = tensor(read_gguf(path), name)
        odd = np.flatnonzero((values != exact).any(axis=1))
        view = rows(path, info)
        if info.type_name == "F32":
            view[odd] = values[odd].view(np.uint8)
        else:
            view[odd] = Rounding().packed(values[odd], info.type_name)
        return path

    def wrong(self, path: Path) -> dict[str, TensorError]:
        with target_of(self.checkpoint)() as target:
            return {e.name: e for e in tensor_errors(read_gguf(path), target) if e.wrong}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> RowLab:
    return RowLab(tmp_path_factory.mktemp("rows"))


def _scaled(factor: float) -> Change:
    def change(values: Array) -> None:
        values[17] *= np.float32(factor)

    return change


def _weight(values: Array) -> None:
    values[17, np.abs(values[17]).argmax()] *= 10


def _rows_exchanged(values: Array) -> None:
    values[[17, 90]] = values[[90, 17]]


def _columns_exchanged(values: Array) -> None:
    values[:, [3, 200]] = values[:, [200, 3]]


def _noise(values: Array) -> None:
    block = values[17, :256]
    block += np.random.default_rng(0).normal(scale=0.1 * block.std(), size=block.shape)


FAULTS: Final[Mapping[str, tuple[Change, str]]] = {
    "scaled by 1 %": (_scaled(1.01), "row 17"),
    "scaled by 20 %": (_scaled(1.2), "row 17 of 256 is multiplied by"),
    "negated": (_scaled(-1), "row 17 of 256 is negated"),
    "weight": (_weight, "row 17 of 256"),
    "rows": (_rows_exchanged, "two rows exchanged: row 17 and row 90"),
    "columns": (_columns_exchanged, "columns 3, 200"),
    "noise": (_noise, "row 17 of 256"),
}
TYPES = ("f32", "q8_0", "q4_k_m", "iq3_s")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_rows_are_named(lab: RowLab, kind: str, fault: str) -> None:
    change, words = FAULTS[fault]
    wrong = lab.wrong(lab.faulty(kind, MATRIX, change))
    assert wrong.keys() == {MATRIX}
    assert words in wrong[MATRIX].detail
    assert wrong[MATRIX].cause in CAUSES


@pytest.mark.parametrize("kind", TYPES)
def test_wrong_entries_of_vectors_are_named(lab: RowLab, kind: str) -> None:
    def zeroed(values: Array) -> None:
        values[0, 5] = 0

    def larger(values: Array) -> None:
        values[0, 9] *= 1.5

    for name, change, words in ((BIAS, zeroed, "has 0 instead of"), (NORM, larger, "in entry 9")):
        wrong = lab.wrong(lab.faulty(kind, name, change))
        assert wrong.keys() == {name}
        assert words in wrong[name].detail


@pytest.mark.parametrize(
    "kind", ["f16", "q8_0", "q5_k_m", "q4_k_m", "q4_0", "q5_1", "iq4_xs", "iq3_s"]
)
def test_correct_files_have_no_wrong_row(lab: RowLab, kind: str) -> None:
    assert lab.wrong(lab.gguf(kind)) == {}


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q4_0"])
def test_files_quantized_from_f16_have_no_wrong_row(lab: RowLab, kind: str, tmp_path: Path) -> None:
    quantize(lab.gguf("f16"), tmp_path / "x.gguf", kind)
    assert lab.wrong(tmp_path / "x.gguf") == {}


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q4_0", "Q5_1", "IQ4_XS", "IQ3_S", "IQ2_S"])
def test_files_with_an_importance_matrix_have_no_wrong_row(
    lab: RowLab, kind: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    entries = {
        t.name: Entry(np.exp(1.5 * rng.standard_normal((1, t.shape[0]))).astype(np.float32), np.ones(1, np.int64))
        for t in read_gguf(lab.gguf("f32")).tensors
        if len(t.shape) > 1
    }  # fmt: skip
    write_imatrix(tmp_path / "m.gguf", Imatrix(entries, ("uneven",), 1, 1))
    options = QuantizeOptions(imatrix=tmp_path / "m.gguf")
    quantize(lab.gguf("f32"), tmp_path / "x.gguf", kind, options)
    assert lab.wrong(tmp_path / "x.gguf") == {}


def test_another_quantizer_is_not_taken_for_wrong_rows(lab: RowLab, tmp_path: Path) -> None:
    """Quantize a Q8_0 file: levels differ everywhere, but the error is hardly larger."""
    options = QuantizeOptions(allow_requantize=True)
    quantize(lab.gguf("q8_0"), tmp_path / "x.gguf", "Q4_K_M", options)
    assert lab.wrong(tmp_path / "x.gguf") == {}


def test_rows_are_not_compared_with_a_quantized_file(lab: RowLab) -> None:
    with gguf_target(lab.gguf("q8_0")) as target:
        found = tensor_errors(read_gguf(lab.gguf("q4_k_m")), target)
    assert not [e for e in found if e.wrong]
    path = lab.faulty("q4_k_m", MATRIX, _scaled(-1))
    with gguf_target(lab.gguf("f32")) as target:
        found = tensor_errors(read_gguf(path), target)
    assert [e.name for e in found if e.wrong] == [MATRIX]


def test_unknown_type_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(64))
    info = TensorInfo("t", (8,), "I64", 0, 64, tmp_path / "x")
    with pytest.raises(CorruptModel, match="has type I64"):
        StoredRows(info, Rounding())


def figures(relative: Array, factor: Array | None = None, always: float = -1) -> RowFigures:
    n = len(relative)
    power = np.full(n, 256.0)
    along = np.zeros(n) if factor is None else (factor - 1) * power
    return RowFigures(
        power, relative * power, along, relative * power, np.zeros(n, np.float32),
        np.full(n, always, np.float32), np.full(n, -1, np.float32),
    )  # fmt: skip


@given(st.integers(0, 39), st.floats(7, 100))
def test_row_with_far_more_error_than_the_others_is_suspicious(odd: int, times: float) -> None:
    relative = np.full(40, 5.1e-3)
    assert not suspects(figures(relative), "Q4_0", by_levels=True).any()
    relative[odd] *= times
    assert np.flatnonzero(suspects(figures(relative), "Q4_0", by_levels=True)).tolist() == [odd]
    assert np.flatnonzero(suspects(figures(relative), "Q4_K", by_levels=False)).tolist() == [odd]
    assert not suspects(figures(relative), "Q4_K", by_levels=True).any(), "its levels explain it"


@given(st.integers(0, 39), st.sampled_from([-1.0, 0.5, 0.9, 1.1, 2.0]))
def test_row_with_another_factor_is_suspicious(odd: int, factor: float) -> None:
    factors = np.full(40, 0.997)
    factors[odd] *= factor
    found = suspects(figures(np.full(40, 5e-3), factors), "Q4_0", by_levels=True)
    assert np.flatnonzero(found).tolist() == [odd]


def test_levels_count_only_where_the_quantizer_keeps_them() -> None:
    f = figures(np.full(8, 5e-3), always=0.5)
    assert suspects(f, "Q4_K", by_levels=True).all()
    assert not suspects(f, "Q4_K", by_levels=False).any()
    assert suspects(f, "F16", by_levels=False).all(), "floats have no quantizer"


def test_small_column_beside_an_outlier_is_not_wrong() -> None:
    """Compare a column that is all rounding error, no larger than that of its neighbours."""
    error = np.full(64, 10.0)
    power = np.full(64, 1e4)
    power[7] = 1.0
    product = power.copy()
    sums = ColumnFigures(power, power + error, product)
    assert len(wrong_columns(sums, 256, "Q4_0")) == 0
    product[40] = 0  # other values
    assert wrong_columns(sums, 256, "Q4_0").tolist() == [40]
    assert len(wrong_columns(sums, 10, "Q4_0")) == 0, "too few rows"


def wrong_rows(got: Array, values: Array, at: list[int], **more: object) -> WrongRows:
    index = np.array(at)
    fields = {
        "n_rows": len(values),
        "per_matrix": 0,
        "columns": np.zeros(0, np.intp),
        "factor": 1.0,
        **more,
    }
    return WrongRows(index, got[index], values[index], **fields)  # type: ignore[arg-type]


@pytest.fixture
def values() -> Array:
    return np.random.default_rng(6).normal(size=(12, 64)).astype(np.float32)


def test_row_of_a_stack_is_described_by_its_matrix(values: Array) -> None:
    got = values.copy()
    got[7] *= 2
    cause, words = describe(wrong_rows(got, values, [7], per_matrix=4), values, "F32")
    assert cause == "scaled"
    assert "row 3 of matrix 1" in words
    assert "multiplied by 2" in words


def test_row_that_holds_another_one_is_described(values: Array) -> None:
    got = values.copy()
    got[2] = values[5]
    assert describe(wrong_rows(got, values, [2]), values, "F32") == (
        "moved_rows", "holds row 5 in place of row 2",
    )  # fmt: skip


def test_few_rows_are_not_the_whole_tensor(values: Array) -> None:
    assert wrong_rows(values, values, [1, 2]).few
    assert not wrong_rows(values, values, list(range(7))).few, "more than half of the rows"
    assert not wrong_rows(values, values, list(range(12))).few


def test_nan_and_single_weights_are_described(values: Array) -> None:
    got = values.copy()
    got[2, 9] = 50
    assert (
        "differs most in column 9 (50, not"
        in describe(wrong_rows(got, values, [2]), values, "F32")[1]
    )
    got[2, 9] = np.nan
    assert "NaN" in describe(wrong_rows(got, values, [2]), values, "F32")[1]
