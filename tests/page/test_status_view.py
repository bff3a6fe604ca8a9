"""The status view of the page: live figures, models, requests, and what happens when the server is gone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.clients.live import Live
from tests.page import invented
from tests.page.axe import serious_violations
from tests.page.conftest import OpenPage
from tests.page.talking import HOSTILE
from tests.page.watched import SCREENS, Watch

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.page

SECRET = "def quite_a_secret(argument):"
# The charts' numbers change with each sample, of which there is one a second.
_NEXT_SAMPLE = """() => new Promise((done) => {
    const paths = document.querySelector("#status .charts");
    new MutationObserver((_, self) => { self.disconnect(); done(); }).observe(paths, {subtree: true, attributes: true});
})"""
_PLACES = """() => [...document.querySelectorAll("#status :is(h2, h3, .plot, .bar, .meter, button, th)")].map(
    (e) => JSON.stringify(e.getBoundingClientRect()))"""


def requests_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Recent requests").locator("tbody tr")


def test_finished_request_is_shown_without_its_text(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    live.complete(prompt=SECRET, max_tokens=3)
    row = requests_of(page).filter(has_text="/v1/completions").first
    row.wait_for()
    assert "prefill" in (row.get_by_role("img").get_attribute("aria-label") or "")
    assert "quite_a_secret" not in page.content()


def test_rows_stay_while_numbers_change(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    live.complete(prompt="a = ", max_tokens=2)
    requests_of(page).first.wait_for()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#status tbody tr td'))")
    selected = page.evaluate("getSelection().toString()")
    rows = requests_of(page).count()
    live.complete(prompt="b = ", max_tokens=2)
    requests_of(page).nth(rows).wait_for()
    assert selected
    assert page.evaluate("getSelection().toString()") == selected


def test_numbers_do_not_shift_the_layout(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    page.get_by_role("heading", name="Models").wait_for()
    page.evaluate(_NEXT_SAMPLE)
    places = page.evaluate(_PLACES)
    for _ in range(3):
        page.evaluate(_NEXT_SAMPLE)
        assert page.evaluate(_PLACES) == places


def test_no_number_is_a_live_region(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    page.get_by_role("heading", name="Models").wait_for()
    regions = page.locator("#status :is([aria-live], [role=status], [role=alert]):visible")
    assert regions.all_inner_texts() == ["Live"]


def test_stream_ends_with_the_view_and_with_a_hidden_document(
    open_page: OpenPage, live: Live
) -> None:
    page = open_page(live.url, "status")
    page.get_by_text("Live", exact=True).wait_for()
    with page.expect_event("requestfailed", lambda r: r.url.endswith("/status/stream")):
        page.get_by_role("tab", name="Set-up").click()
    with page.expect_request("**/status/stream"):
        page.get_by_role("tab", name="Status").click()
    page.get_by_text("Live", exact=True).wait_for()
    with page.expect_event("requestfailed", lambda r: r.url.endswith("/status/stream")):
        page.evaluate("""() => {
            Object.defineProperty(document, "hidden", {get: () => true, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""")


def test_lost_server_is_reported_until_it_is_back(
    open_page: OpenPage, live: Live, watch: Watch
) -> None:
    watch.allow("ERR_")
    page = open_page(live.url, "status")
    page.get_by_text("Live", exact=True).wait_for()
    page.route("**/status", lambda route: route.abort())
    page.evaluate("dispatchEvent(new Event('hashchange'))")
    page.get_by_role("tab", name="Set-up").click()
    page.get_by_role("tab", name="Status").click()
    page.get_by_text("Server gone since").wait_for()
    page.unroute("**/status")
    page.get_by_role("button", name="Try now").click()
    page.get_by_text("Live", exact=True).wait_for()


def test_every_chart_has_a_text_alternative(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    page.get_by_role("heading", name="Models").wait_for()
    for title in (
        "Requests", "Prefill", "Decode", "Time to first token", "Prompt from cache", "Accepted drafts",
    ):  # fmt: skip
        assert page.get_by_role("img", name=f"{title} in the last five minutes").count() == 1


def test_settings_show_no_secret(open_page: OpenPage, guarded: Live, watch: Watch) -> None:
    watch.allow("status of 401")
    page = open_page(guarded.url, "status")
    page.get_by_label("requires an API key").fill(guarded.key)
    page.keyboard.press("Enter")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Filter the settings").fill("api-key")
    page.get_by_role("region", name="Options of the server").get_by_text(
        "--api-key", exact=True
    ).wait_for()
    assert guarded.key not in page.content()


def test_model_is_unloaded_and_loaded(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "status")
    unload, load = (
        page.get_by_role("button", name=re.compile(f"^{n} ")) for n in ("Unload", "Load")
    )
    unload.click()
    page.locator(".badge.unloaded").wait_for()
    assert unload.is_disabled()
    load.click()
    page.locator(".badge.ok").wait_for()
    assert live.complete(prompt="a", max_tokens=1)


def test_failed_load_is_explained(open_page: OpenPage, live: Live, watch: Watch) -> None:
    watch.allow("status of 500")
    page = open_page(live.url, "setup")
    answer = {"error": {"message": "two.gguf: the file is truncated"}}
    page.route("**/models/load", lambda route: route.fulfill(status=500, json=answer))
    invented.show(page, invented.status())
    button = page.get_by_role("button", name="Load two", exact=True)
    button.click()
    page.get_by_role("alert").get_by_text("two.gguf: the file is truncated").wait_for()
    assert button.is_enabled()


def test_requests_are_sorted_and_filtered(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    invented.show(page, invented.status())
    rows = requests_of(page)
    totals = rows.locator("[data-head=Total]")
    assert totals.all_inner_texts() == ["152 ms", "252 ms", "952 ms"]
    page.get_by_role("button", name="Total").click()
    assert totals.all_inner_texts() == ["952 ms", "252 ms", "152 ms"]
    assert rows.first.get_by_text("read 900 new prompt tokens").is_visible()
    page.get_by_label("hide this page's requests").check()
    assert totals.all_inner_texts() == ["952 ms", "252 ms"]


def test_hostile_texts_are_shown_as_text(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    invented.show(page, invented.status())
    shown = page.locator("#status").evaluate("e => e.textContent")
    assert shown.count(HOSTILE) == 4
    assert page.title() == "TurboPilot"
    assert page.locator("#status :is(script, img)").count() == 0


@pytest.mark.parametrize("screen", SCREENS)
def test_every_part_is_accessible_and_fits(open_page: OpenPage, live: Live, screen: str) -> None:
    page = open_page(live.url, "setup", SCREENS[screen])
    invented.show(page, invented.status())
    for text in ("a GPU: memory", "vLLM", "http://10.0.0.5:8000", "of the limit of 16 GiB", "25 %"):
        assert page.locator("#status").get_by_text(text).first.is_visible(), text
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert serious_violations(page) == []
