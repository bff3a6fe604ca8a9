"""Tables: names are never split, columns are left out by width, and one row takes one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.render.test_html_report import report, tensor
from turbopilot.bench import Divergence, Measured, Rate
from turbopilot.catalog import MODELS
from turbopilot.editors import EDITORS
from turbopilot.llama.model_memory import ModelMemory
from turbopilot.render import bench as bench_text
from turbopilot.render import console
from turbopilot.render import editors as editors_text
from turbopilot.render import models as models_text
from turbopilot.render import verify as verify_text
from turbopilot.render.bench_plot import BenchRow
from turbopilot.render.quantize import show_types
from turbopilot.render.table import TableColumns

COLUMNS = TableColumns(
    ("name", "size", "speed", "kind", "notes"), left=("kind",), optional=("speed",), text="notes"
)
ROWS = [
    ["a-long-model-name-1.5b", "12.5 GB", "5", "x", "small, with little loss, prefer Q5_K_M"],
    ["b", "3.1 GB", "1,234", "yy", ""],
]


def test_wide_table_has_every_column_and_no_spaces_at_the_ends() -> None:
    lines, left_out = COLUMNS.lay_out(ROWS, 100)
    assert lines == [
        "name                       size  speed  kind  notes",
        "a-long-model-name-1.5b  12.5 GB      5  x     small, with little loss, prefer Q5_K_M",
        "b                        3.1 GB  1,234  yy",
    ]
    assert left_out == []


def test_text_is_shortened_between_words_before_columns_are_left_out() -> None:
    lines, left_out = COLUMNS.lay_out(ROWS, 80)
    assert lines[1] == (
        "a-long-model-name-1.5b  12.5 GB      5  x     small, with little loss, prefer…"
    )
    assert left_out == []


def test_optional_columns_are_left_out_first_and_then_the_last() -> None:
    assert COLUMNS.lay_out(ROWS, 67)[1] == ["speed"]
    assert COLUMNS.lay_out(ROWS, 60)[1] == ["speed", "notes"]
    lines, left_out = COLUMNS.lay_out(ROWS, 31)
    assert lines == [
        "name                       size",
        "a-long-model-name-1.5b  12.5 GB",
        "b                        3.1 GB",
    ]
    assert left_out == ["speed", "kind", "notes"]


def test_names_are_whole_even_if_they_do_not_fit() -> None:
    lines, left_out = COLUMNS.lay_out(ROWS, 10)
    assert lines == ["name", "a-long-model-name-1.5b", "b"]
    assert left_out == ["size", "speed", "kind", "notes"]


def test_wide_characters_take_two_columns() -> None:
    lines, _ = TableColumns(("file", "size")).lay_out(
        [["模型.gguf", "1 B"], ["model.gguf", "2 B"]], 80
    )
    assert lines[1:] == ["模型.gguf    1 B", "model.gguf   2 B"]


words = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z", "M"]), min_size=1, max_size=12
)


@given(
    rows=st.lists(
        st.tuples(words, words, words, st.lists(words, max_size=6).map(" ".join)), max_size=4
    ),
    width=st.integers(1, 90),
)
def test_every_line_fits_or_has_only_the_name(
    rows: list[tuple[str, str, str, str]], width: int
) -> None:
    columns = TableColumns(("name", "one", "two", "text"), optional=("two",), text="text")
    lines, left_out = columns.lay_out(rows, width)
    assert len(lines) == len(rows) + 1
    for line, (name, *_) in zip(lines[1:], rows, strict=True):
        assert line.startswith(name)
        if len(left_out) == 3:
            assert line == name
        elif line.isascii() and name.isascii():
            assert len(line) <= width


def bench_row(name: str, kl: float) -> BenchRow:
    rate = Rate(64, (1234.5, 1250.0))
    measured = Measured(
        Path(name), "Q4_K", 3_000_000, 4.5, 2048, 2, "F16", (), "0", "", rate, rate, None
    )
    ones = np.ones(3)
    return BenchRow(name, measured, Divergence.of(ones * kl, ones, ones, ones))


BENCH = [bench_row("deepseek-coder-6.7b-q4_k_m.gguf", 1e-2), bench_row("q8_0.gguf", 1e-3)]
FILES = [report(candidate=f"/models/{r.name}") for r in BENCH]
TENSORS = (
    tensor("blk.10.attn_output.weight", 5e-5, detail="rows 10 to 20 hold those of blk.11.attn_output.weight"),
    tensor("output.weight", 0.0),
)  # fmt: skip
SHOWN: dict[str, tuple[Callable[[], None], list[str]]] = {
    "models": (lambda: models_text.table(MODELS, ModelMemory(10**10)), [m.alias for m in MODELS]),
    "editors": (lambda: editors_text.table(EDITORS), [e.name for e in EDITORS]),
    "quantization types": (lambda: show_types(as_json=False), ["Q4_K_M", "MXFP4_MOE", "IQ2_XXS"]),
    "bench": (lambda: bench_text.show(BENCH, Path("f16.gguf")), [r.name for r in BENCH]),
    "verify": (lambda: verify_text.show(FILES), [r.name for r in BENCH]),
    "verify one": (lambda: verify_text.show(FILES[:1]), ["top-1 in the candidate's top 5", "fim"]),
    "verify --tensors": (
        lambda: verify_text.show([report(tensors=TENSORS)], listed=True), ["blk.10.attn_output.weight"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("name", SHOWN)
def test_program_tables_fit_with_whole_names(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show, names = SHOWN[name]
    show()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [x for x in lines if len(x) > width] == []
    for wanted in names:
        assert [x for x in lines if x == wanted or x.startswith(f"{wanted} ")], wanted
    assert not re.search("[\x1b│┃─━]", out), "neither boxes nor colours"


def test_columns_left_out_are_named_and_not_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    legend = {"speed": "in tokens", "kind, notes": "explained"}
    console.table("a title", COLUMNS, ROWS, legend)
    out = capsys.readouterr().out
    assert out.startswith("a title\nname  ")
    assert out.endswith(
        "  yy\n\nnot shown in 60 columns: speed, notes (--json has all)\nkind, notes: explained\n"
    )


def test_width_is_80_columns_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    models_text.table(MODELS, ModelMemory(10**10))
    out = capfd.readouterr().out
    assert 60 < max(map(len, out.splitlines())) <= 80


def test_control_characters_in_a_cell_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("", TableColumns(("file", "size")), [["a\x1b[31m\nb [bold] :smile:", "1 B"]])
    assert capsys.readouterr().out.splitlines()[1] == r"a\x1b[31m\nb [bold] :smile:   1 B"
