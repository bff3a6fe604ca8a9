"""The playground: a missing key, a server that is gone or busy, refusals, and hostile text."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.asked import KEY
from tests.clients.live import Live, live_server
from tests.page.conftest import OpenPage
from tests.page.editor import (
    ROUTE,
    SAYS,
    answer_with,
    choices,
    document,
    ghost,
    message,
    opened,
    says,
    shows,
    stream,
)
from tests.page.talking import HOSTILE, talking_server
from tests.page.watched import Watch

pytestmark = pytest.mark.page


def test_missing_key_is_asked_for(open_page: OpenPage, guarded: Live, watch: Watch) -> None:
    watch.allow("status of 401")
    page = open_page(guarded.url)
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_role("button", name="Cancel").click()
    says(page, "requires an API key")
    page.get_by_role("button", name="Enter the key").click()
    dialog.get_by_label("requires an API key").fill(KEY)
    page.keyboard.press("Enter")
    ghost(page).wait_for(timeout=60_000)
    assert "requires" not in message(page).inner_text()


def test_full_queue_is_reported_and_tried_again(
    open_page: OpenPage, url: str, watch: Watch
) -> None:
    watch.allow("status of 503")
    page = opened(open_page, url)
    answer_with(page, '{"error": {"message": "the queue is full"}}', status=503)
    page.keyboard.type("q")
    says(page, "the queue is full")
    page.unroute(ROUTE)
    shows(page, SAYS)
    assert "queue" not in message(page).inner_text()


def test_refused_request_is_explained(open_page: OpenPage, url: str, watch: Watch) -> None:
    watch.allow("status of 400")
    page = opened(open_page, url)
    answer_with(page, '{"error": {"message": "max_tokens is <b>wrong</b>"}}', status=400)
    page.keyboard.type("q")
    says(page, "status 400.*max_tokens is <b>wrong</b>")


def test_failure_in_the_stream_is_explained(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    answer_with(page, stream({"error": {"message": "the device was lost"}}))
    page.keyboard.type("q")
    says(page, "failed: the device was lost")


def test_server_may_go_and_come_back(open_page: OpenPage, model_cache: Path, watch: Watch) -> None:
    watch.allow(
        "status of 503|ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE"
    )
    with live_server(model_cache) as server:
        page = open_page(server.url)
        ghost(page).wait_for(timeout=60_000)
    page.keyboard.type("q")
    says(page, "does not answer.*turbopilot serve")
    page.keyboard.type(" typed meanwhile")
    assert "return q typed meanwhile\n" in document(page)
    with live_server(model_cache, "--port", str(server.port)):
        from playwright.sync_api import expect

        expect(message(page)).not_to_have_text(re.compile("does not answer"), timeout=60_000)


def test_hostile_text_is_shown_as_text(open_page: OpenPage, servers: ExitStack) -> None:
    from playwright.sync_api import expect

    page = open_page(servers.enter_context(talking_server(HOSTILE)))
    expect(ghost(page)).to_contain_text("<script>document.title", timeout=60_000)
    for escape in (r"\u{202e}", r"\u{2066}", r"\u{2069}", r"\u{1b}[31m", r"\u{7}"):
        expect(ghost(page)).to_contain_text(escape)
    expect(ghost(page)).to_contain_text("&lt;&amp;")
    page.keyboard.press("Tab")
    text = document(page)
    assert "<img src=x onerror=" in text
    assert r"\u{202e}" in text
    assert not re.search("[\u202e\u2066\u001b]", text)
    assert page.title() == "TurboPilot"
    assert page.locator("#playground img[src], #playground script").count() == 0


def test_endless_line_is_cut_and_typing_goes_on(open_page: OpenPage, url: str) -> None:
    from playwright.sync_api import expect

    page = opened(open_page, url)
    answer_with(page, choices("x" * 1_000_000))
    page.keyboard.type("q")
    expect(ghost(page)).to_contain_text("… and 996,000 more characters", timeout=60_000)
    assert len(ghost(page).inner_text()) < 5000
    page.unroute(ROUTE)
    page.keyboard.type("typed")
    assert "return qtyped\n" in document(page)
