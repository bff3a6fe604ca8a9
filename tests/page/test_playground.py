"""The playground: ghost text as one types, and what the keys and buttons do."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import OpenPage
from tests.page.editor import (
    ROUTE,
    SAYS,
    answer_with,
    body_of,
    choices,
    document,
    ghost,
    has_no_ghost,
    opened,
    says,
    shows,
)
from tests.page.talking import saying, talking_server
from tests.support.fakes import FakeDecoder

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.page


def test_bundled_model_completes_the_sample(page: Page) -> None:
    from playwright.sync_api import expect

    expect(ghost(page)).to_have_text(re.compile(r"self"), timeout=60_000)
    facts = page.locator(".facts")
    expect(facts).to_have_text(
        re.compile(r"First token\s*[\d.]+ m?s.*Speed\s*[\d.]+ tokens/s.*Tokens\s*\d+.*End\s*stop")
    )
    assert page.get_by_label("Mode", exact=True).is_hidden(), "the model predicts no edits"
    before = document(page)
    text = ghost(page).inner_text()
    page.keyboard.press("Tab")
    assert document(page) == before.replace("return \n", f"return {text}\n", 1)


def test_request_has_the_text_around_the_cursor_and_the_lowest_priority(
    open_page: OpenPage, url: str
) -> None:
    page = opened(open_page, url)
    with page.expect_request(ROUTE) as found:
        page.keyboard.type("z")
    body = body_of(found.value)
    assert body["prompt"].endswith("def __repr__(self):\n        return z")
    assert body["suffix"].startswith("\n\n    def add")
    assert body["stream"] is True
    assert "temperature" not in body
    assert found.value.headers["x-turbopilot-priority"] == "low"
    assert found.value.headers["x-turbopilot-session"].startswith("page-")


def test_large_files_are_cut_around_the_cursor(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    answer_with(page, choices("x"))
    page.keyboard.press("ControlOrMeta+a")
    page.evaluate("navigator.clipboard.writeText('line of text\\n'.repeat(5000))")
    page.keyboard.press("ControlOrMeta+v")
    for _ in range(10):
        page.keyboard.press("PageUp")
    with page.expect_request(ROUTE) as found:
        page.keyboard.press("q")
    body = body_of(found.value)
    assert body["prompt"].startswith("line of text\n")
    assert body["prompt"].endswith("line of text\nq")
    assert 7000 < len(body["prompt"]) <= 8000
    assert body["suffix"].endswith("line of text\n")
    assert 1900 < len(body["suffix"]) <= 2000


def test_tab_accepts_all(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    page.keyboard.press("Tab")
    assert f"        return {SAYS}\n\n    def add" in document(page)
    page.keyboard.press("ControlOrMeta+z")
    assert "        return \n" in document(page)


def test_words_are_accepted_one_by_one(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    for accepted, rest in (
        ("self", ".x + self.y"),
        ("self.", "x + self.y"),
        ("self.x", " + self.y"),
        ("self.x +", " self.y"),
    ):
        page.keyboard.press("Control+ArrowRight")
        shows(page, rest)
        assert f"return {accepted}\n" in document(page)


def test_typing_the_next_characters_keeps_the_ghost_text(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    page.keyboard.type("self")
    shows(page, ".x + self.y")
    page.keyboard.press("Backspace")
    shows(page, "f.x + self.y")
    assert not [r for r in requests if r.endswith("/completions")]


def test_escape_dismisses_and_tab_then_leaves_the_editor(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    before = document(page)
    page.keyboard.press("Escape")
    has_no_ghost(page)
    page.keyboard.press("Tab")
    assert document(page) == before
    assert page.evaluate("document.activeElement.closest('.editor-host')") is None
    page.locator(".cm-content").focus()
    for key in ("ArrowLeft", "ArrowRight", "Tab"):
        page.keyboard.press(key)
    assert document(page) == before.replace("return ", "return     ", 1), "Tab alone indents"


def test_moving_the_cursor_ends_the_ghost_text(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    page.keyboard.press("ArrowUp")
    has_no_ghost(page)


def test_other_typing_aborts_the_running_request(open_page: OpenPage, servers: ExitStack) -> None:
    gate = threading.Semaphore(0)
    decoder = FakeDecoder(saying(SAYS), n_ctx=1 << 14, n_batch=512, gate=gate)
    page = open_page(servers.enter_context(talking_server(SAYS, decoder)))
    says(page, "Waiting")
    with page.expect_event("requestfailed") as failed, page.expect_request(ROUTE) as sent:
        page.keyboard.type("q")
    assert failed.value.url.endswith("/v1/completions")
    assert body_of(sent.value)["prompt"].endswith("return q")
    gate.release(1000)
    shows(page, SAYS)


def test_typing_does_not_wait_for_the_server(open_page: OpenPage, servers: ExitStack) -> None:
    decoder = FakeDecoder(saying(SAYS), n_ctx=1 << 14, n_batch=512, gate=threading.Semaphore(0))
    page = open_page(servers.enter_context(talking_server(SAYS, decoder)))
    says(page, "Waiting")
    page.keyboard.type("typed meanwhile")
    assert "return typed meanwhile\n" in document(page)


def test_model_without_an_answer_shows_none(open_page: OpenPage, servers: ExitStack) -> None:
    page = open_page(servers.enter_context(talking_server("")))
    says(page, "No completion here")
    has_no_ghost(page)


def test_completions_are_reported_as_shown_and_accepted_or_dismissed(
    open_page: OpenPage, url: str
) -> None:
    page = open_page(url)
    with page.expect_request("**/v1/events") as found:
        shows(page, SAYS)
    viewed = body_of(found.value)
    assert (viewed["type"], viewed["choice_index"]) == ("view", 0)
    assert viewed["completion_id"].startswith("cmpl-")
    with page.expect_request(
        lambda r: r.url.endswith("/v1/events") and "select" in r.post_data
    ) as found:
        page.keyboard.press("Tab")
    assert body_of(found.value)["completion_id"] == viewed["completion_id"]
    shows(page, SAYS)  # the next completion
    with page.expect_request(
        lambda r: r.url.endswith("/v1/events") and "dismiss" in r.post_data
    ) as found:
        page.keyboard.press("Escape")
    assert body_of(found.value)["completion_id"] != viewed["completion_id"]


def test_completion_is_announced_to_screen_readers(open_page: OpenPage, url: str) -> None:
    from playwright.sync_api import expect

    page = opened(open_page, url)
    expect(page.locator("#playground [role=status]")).to_have_text(
        f"Completion: {SAYS}. Tab accepts it."
    )
    assert ghost(page).get_attribute("aria-hidden") == "true"
    assert page.get_by_role("textbox", name="Code, tree.py").count() == 1
