"""Loading of the page: its size, its policy, its tabs, the dialog for a key, and its accessibility."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import serve.page
from tests.clients.asked import KEY
from tests.clients.live import Live
from tests.page.axe import serious_violations
from tests.page.conftest import OpenPage
from tests.page.watched import LIGHT, NARROW, SCREENS, Watch
from tests.support.serving import ask

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.page

FILLED = {
    "playground": ".tp-ghost", "status": ".status-contents", "setup": "[data-name][aria-current=true]",
}  # fmt: skip
"""View → what it shows once the server has answered."""
VIEWS = tuple(FILLED)
LIMIT = 400_000
"""Bytes of all files of the page together, compressed by gzip."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_TIMES = "() => { const t = performance.getEntriesByType('navigation')[0]; return [t.domInteractive, t.loadEventEnd] }"
_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_page_is_small() -> None:
    files = [f for f in Path(serve.page.__file__).with_name("static").iterdir() if f.is_file()]
    sizes = {f.name: len(gzip.compress(f.read_bytes(), mtime=0)) for f in files}
    assert "page.js" in sizes
    assert sum(sizes.values()) <= LIMIT, sizes


def test_page_forbids_everything_but_its_own_files(live: Live) -> None:
    status, headers, body = ask(live.port, "GET", "/", headers={"Accept": "text/html"})
    assert status == 200
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["Content-Type"].startswith("text/html")
    assert not re.search(rb"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", body)


@pytest.mark.parametrize("view", VIEWS)
def test_view_opens_without_errors(
    open_page: OpenPage, live: Live, view: str, pytestconfig: pytest.Config
) -> None:
    page = open_page(live.url, view)
    assert page.locator("[role=tabpanel]:not([hidden])").get_attribute("id") == view
    times = "interactive after {:.0f} ms, loaded after {:.0f} ms".format(*page.evaluate(_TIMES))
    pytestconfig.get_terminal_writer().line(f" {view}: {times}")


def test_tabs_are_chosen_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Playground").focus()
    order = ("Status", "Set-up", "Playground")
    for key, name in (*(("ArrowRight", name) for name in order), ("ArrowLeft", "Set-up")):
        page.keyboard.press(key)
        assert page.locator(":focus").inner_text() == name
        assert page.locator("[role=tab][aria-selected=true]").inner_text() == name
        assert page.locator("[role=tabpanel]:not([hidden])").count() == 1
    assert page.url.endswith("#setup")


def test_key_is_asked_for_and_kept_in_memory_only(
    open_page: OpenPage, guarded: Live, watch: Watch
) -> None:
    watch.allow("status of 401")
    page = open_page(guarded.url, "status")
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("requires an API key").fill(KEY)
    bearer = f"Bearer {KEY}"
    with page.expect_response(lambda r: r.request.headers.get("authorization") == bearer) as found:
        page.keyboard.press("Enter")
    assert found.value.ok
    dialog.wait_for(state="hidden")
    stored = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
    assert stored == [0, 0, ""]
    page.reload()
    dialog.wait_for()


def test_wrong_key_is_asked_for_again(open_page: OpenPage, guarded: Live, watch: Watch) -> None:
    from playwright.sync_api import expect

    watch.allow("status of 401")
    page = open_page(guarded.url, "status")
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("requires an API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_label("requires an API key")).to_have_value("")


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("view", VIEWS)
def test_view_is_accessible(open_page: OpenPage, live: Live, view: str, screen: str) -> None:
    page = open_page(live.url, view, SCREENS[screen])
    page.locator(FILLED[view]).first.wait_for()
    assert serious_violations(page) == []


@pytest.mark.parametrize("view", VIEWS)
def test_view_fits_a_narrow_screen(open_page: OpenPage, live: Live, view: str) -> None:
    page = open_page(live.url, view, NARROW)
    page.locator(FILLED[view]).first.wait_for()
    assert page.evaluate(_WIDE) <= 0


def test_axe_finds_serious_violations(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup", LIGHT)
    page.evaluate("document.body.append(document.createElement('input'))")
    assert any("label" in found for found in serious_violations(page))
