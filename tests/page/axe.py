"""Accessibility of a page, checked by axe-core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

VARIABLE = "TURBOPILOT_PAGE"
"""Environment variable with the folder in which scripts/test_page installed axe-core."""

_RUN = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map((v) => ({
    rule: v.id, impact: v.impact, nodes: v.nodes.map((n) => n.target.join(" ") + ": " + n.failureSummary),
}))"""


def serious_violations(page: Page) -> list[str]:
    """Return axe-core's serious and critical violations; skip the test if axe-core is not installed."""
    folder = os.environ.get(VARIABLE)
    script = Path(folder or ".") / "node_modules/axe-core/axe.min.js"
    if not folder or not script.is_file():
        pytest.skip("axe-core is not installed: run scripts/test_page with npm in PATH")
    # Chromium's debugger evaluates it, whatever the page's policy allows.
    page.evaluate(script.read_text("utf-8"))
    return [
        f"{found['impact']}: {found['rule']}: {node}"
        for found in page.evaluate(_RUN)
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
