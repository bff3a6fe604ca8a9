"""Fixtures of the page's tests: one Chromium for all of them, and pages that fail a test by any error.

The servers are the fixtures `live` and `guarded`, `live_server` with other options, and `talking_server`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import pytest

from tests.clients.live import ROOT, Live
from tests.page.editor import SAYS
from tests.page.talking import talking_server
from tests.page.watched import LIGHT, Screen, Watch
from tests.support.chromium import BROWSERS, chromium, installed_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

# Playwright and Pillow are in the environment of scripts/test_page alone.
collect_ignore_glob = [] if importlib.util.find_spec("playwright") else ["test_*.py"]


TakePicture: TypeAlias = "Callable[[Page | Locator, str], Path]"
COLOURS = 256
"""Colours of a picture."""


class OpenPage(Protocol):
    """Opens a page of a server."""

    def __call__(self, url: str, view: str = "playground", screen: Screen = LIGHT) -> Page: ...


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = installed_browser()
    if path is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS)}")
    with chromium(path) as browser:
        yield browser


@pytest.fixture
def watch() -> Watch:
    """Watch of the test's pages; `watch.allow` accepts errors that the test provokes."""
    return Watch()


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Servers that a test starts itself with `enter_context`; they end after its pages, which go on asking them."""
    with ExitStack() as servers:
        yield servers


@pytest.fixture
def open_page(
    browser: Browser, watch: Watch, servers: ExitStack, tmp_path: Path
) -> Iterator[OpenPage]:
    """Open pages, each in a browser context of its own; a test fails by problems of its pages.

    The last picture of each page is in the test's folder, which pytest keeps if the test fails.
    """
    del servers  # needed for the order alone: pages close before servers end
    pages: list[Page] = []

    def open_page(url: str, view: str = "playground", screen: Screen = LIGHT) -> Page:
        context = browser.new_context(
            viewport={"width": screen.width, "height": screen.height},
            device_scale_factor=screen.scale,
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
        if not page.is_closed():
            page.screenshot(path=tmp_path / f"page{i}.png")
        page.context.close()
    assert not watch.problems


@pytest.fixture
def page(open_page: OpenPage, live: Live) -> Page:
    """Playground of the running server with the bundled model."""
    return open_page(live.url)


@pytest.fixture
def picture(tmp_path: Path) -> TakePicture:
    """Write a picture as NAME.png, into TURBOPILOT_PICTURES if it is set."""
    folder = os.environ.get("TURBOPILOT_PICTURES")

    def take(shown: Page | Locator, name: str) -> Path:
        from PIL import Image

        file = (ROOT / folder if folder else tmp_path) / f"{name}.png"
        shown.screenshot(path=file)
        with Image.open(file) as image:
            # The other methods lose the rare colours, such as those of keywords.
            small = image.convert("RGB").quantize(
                COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        small.save(file, optimize=True)
        return file

    return take


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """URL of a server whose completions are SAYS."""
    with talking_server(SAYS) as url:
        yield url
