"""Matrix of clients: each cell has a test or a reason."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.clients.matrix import CAPABILITIES, CLIENTS, cells

pytest_plugins = ("pytester",)


def proven() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        module = importlib.import_module(f"tests.clients.{path.stem}")
        for value in vars(module).values():
            marks: list[Any] = getattr(value, "pytestmark", [])
            if isinstance(marks, list):
                cases = [c for m in marks if m.name == "parametrize" for c in m.args[1]]
                marks = [*marks, *(mark for case in cases for mark in getattr(case, "marks", ()))]
                found |= {m.args for m in marks if m.name == "cell"}
    return found


def test_every_cell_has_a_test_or_a_reason() -> None:
    assert proven() == cells()
    for client in CLIENTS:
        assert set(client.cannot) <= set(CAPABILITIES)
        assert set(client.notes) <= set(CAPABILITIES) - set(client.cannot)


def test_table_shows_the_outcomes_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    write_clients = importlib.import_module("write_clients")
    outcomes = ("passed", "failed", "skipped")
    cells = {
        "curl": {
            what: {"outcome": outcome, "reason": "no such flag"}
            for what, outcome in zip(CAPABILITIES, outcomes, strict=False)
        }
    }
    run = write_clients.Run("2023-01-02", cells, {"curl": {"version": "7.0"}})
    text = write_clients.clients_md(run)
    assert "2023-01-02" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| curl "))
    found = [re.sub(r"<sup>\d+</sup>", "", cell.strip()) for cell in row.split("|")]
    assert found[2:8] == ["7.0", "yes", "**no**", "not tested", "not tested", "not tested"]
    assert ". no such flag\n" in text
    assert ". not run\n" in text
    for client in CLIENTS:
        for reason in client.cannot.values():
            assert f". {reason}\n" in text


def test_report_has_the_worst_outcome_of_each_cell(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = cell(client, what)")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cell("a", "plain")
        def test_good(): pass

        @pytest.mark.cell("a", "plain")
        @pytest.mark.cell("b", "stream")
        def test_bad(): assert False

        @pytest.mark.cell("b", "FIM")
        def test_absent(): pytest.skip("not here")

        @pytest.mark.cell("a", "plain")
        @pytest.mark.cell("c", "auth")
        def test_good_again(): pass

        @pytest.fixture
        def broken(): raise ValueError

        @pytest.mark.cell("c", "cancel")
        def test_not_begun(broken): pass
        """
    )
    pytester.runpytest("-p", "tests.clients.report", "--clients-report", "found.json")
    found = json.loads(Path(pytester.path, "found.json").read_text("utf-8"))["cells"]
    outcomes = {(c, what): e["outcome"] for c, row in found.items() for what, e in row.items()}
    assert outcomes == {
        ("a", "plain"): "failed", ("b", "stream"): "failed", ("b", "FIM"): "skipped", ("c", "auth"): "passed",
        ("c", "cancel"): "failed",
    }  # fmt: skip
    assert found["b"]["FIM"]["reason"] == "not here"
