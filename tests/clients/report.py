"""Pytest plugin that writes the outcome of each cell of the matrix as JSON.

python -m pytest -p tests.clients.report --clients-report FILE …
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

_WORST = ("passed", "skipped", "failed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--clients-report", type=Path, help="Write the clients' matrix to this file.")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--clients-report"):
        config.pluginmanager.register(Report(path))


class Report:
    """Collector of outcomes; if several tests cover a cell, the worst outcome counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cells: dict[str, dict[str, dict[str, str]]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            item.user_properties += [("cell", mark.args) for mark in item.iter_markers("cell")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        reason = ""
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            reason = reason.removeprefix("Skipped: ")
        for name, value in report.user_properties:
            if name != "cell" or not isinstance(value, tuple):
                continue
            client, what = value
            cells = self._cells.setdefault(client, {})
            before = cells.get(what, {"outcome": "passed", "reason": ""})
            if _WORST.index(report.outcome) >= _WORST.index(before["outcome"]):
                cells[what] = {"outcome": report.outcome, "reason": reason}

    def pytest_sessionfinish(self) -> None:
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        text = json.dumps({"date": now, "cells": self._cells}, indent=1, sort_keys=True)
        self._path.write_text(text + "\n", "utf-8")
