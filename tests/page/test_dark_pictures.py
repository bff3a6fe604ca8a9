"""Pictures of the documentation in light and dark mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.live import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.page

PICTURES = sorted((ROOT / "docs/img").glob("*.svg"))
_BACKGROUND = "() => getComputedStyle(document.documentElement).backgroundColor"


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.name)
def test_picture_follows_the_colour_scheme(browser: Browser, file: Path) -> None:
    found = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(file.as_uri())
        found.append(page.evaluate(_BACKGROUND))
        page.close()
    assert found == ["rgb(255, 255, 255)", "rgb(21, 24, 27)"]
