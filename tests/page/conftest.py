"""Fixtures of the page's tests: one Chromium for all of them, and pages that fail a test by any error.

The servers are the fixtures `live` and `guarded`, `live_server` with other options, and `talking_server`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.clients.live import ROOT, Live
from tests.page.watched import LIGHT, Screen, Watch
from tests.support.chromium import BROWSERS, installed_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Playwright is in the environment of scripts/test_page alone.
collect_ignore_glob = [] if importlib.util.find_spec("playwright") else ["test_*.py"]


class OpenPage(Protocol):
    """Opens a page of a server."""

    def __call__(self, url: str, view: str = "playground", screen: Screen = LIGHT) -> Page: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    found = installed_browser()
    if found is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    # Chromium's sandbox does not work for root, as whom containers run tests.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def watch() -> Watch:
    """Watch of the test's pages; `watch.allow` accepts errors that the test provokes."""
    return Watch()


@pytest.fixture
def open_page(browser: Browser, watch: Watch, tmp_path: Path) -> Iterator[OpenPage]:
    """Open pages, each in a browser context of its own; a test fails by problems of its pages.

    The last picture of each page is in the test's folder, which pytest keeps if the test fails.
    """
    pages: list[Page] = []

    def open_page(url: str, view: str = "playground", screen: Screen = LIGHT) -> Page:
        context = browser.new_context(
            viewport={"width": screen.width, "height": screen.height},
            color_scheme="dark" if screen.dark else "light",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        page = context.new_page()
        pages.append(page)
        watch.follow(page, url)
        page.goto(f"{url}/#{view}")
        return page

    yield open_page
    for i, page in enumerate(pages):
        page.screenshot(path=tmp_path / f"page{i}.png")
        page.context.close()
    assert not watch.problems


@pytest.fixture
def page(open_page: OpenPage, live: Live) -> Page:
    """Playground of the running server with the bundled model."""
    return open_page(live.url)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Page, str], Path]:
    """Write a picture of a page's window as NAME.png, into TURBOPILOT_PICTURES if it is set."""
    folder = os.environ.get("TURBOPILOT_PICTURES")

    def take(page: Page, name: str) -> Path:
        file = (ROOT / folder if folder else tmp_path) / f"{name}.png"
        page.screenshot(path=file)
        return file

    return take
