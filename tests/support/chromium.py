"""The Chromium of this machine, for tests in a headless browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def installed_browser() -> str | None:
    """Return the path of the first of `BROWSERS` in PATH, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def chromium(path: str | None) -> Iterator[Browser]:
    """Run a browser without a window. Needs Playwright, which scripts/test_page installs."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox does not work for root, as whom containers run tests.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
