"""Cells of the table in docs/editors.md, which the tests prove."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import pytest


class Named(Protocol):
    """Plugin of any editor."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...


def each(plugins: Iterable[Named], *capabilities: str) -> pytest.MarkDecorator:
    """Run a test with each plugin, as the proof of its cells in these columns."""
    return pytest.mark.parametrize(
        "plugin",
        [
            pytest.param(p, id=p.name, marks=[pytest.mark.cell(p.title, c) for c in capabilities])
            for p in plugins
        ],
    )
