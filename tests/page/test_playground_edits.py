"""The playground: next edits, shown as a difference of lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.page.conftest import OpenPage
from tests.page.editor import SAYS, body_of, document, has_no_ghost, opened, shows

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.page


@contextmanager
def next_edits(page: Page, edit: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Let the server predict this edit; yield the requests for it."""
    asked: list[dict[str, Any]] = []

    def predict(route: Route) -> None:
        asked.append(body_of(route.request))
        none = {
            "elapsed_time_ms": 1,
            "finish_reason": "stop",
            "autocomplete_id": "1",
            "confidence": 1,
        }
        route.fulfill(json={**none, **edit, "completions": [edit] if edit["completion"] else []})

    page.route("**/backend/next_edit_autocomplete", predict)
    yield asked


def test_next_edit_is_shown_as_a_difference_and_accepted(open_page: OpenPage, url: str) -> None:
    from playwright.sync_api import expect

    page = opened(open_page, url)
    text = document(page).replace("return \n", "return z\n", 1)
    start = text.index("append")
    edit = {"start_index": start, "end_index": start + len("append"), "completion": "<b>z</b>"}
    with next_edits(page, edit) as asked:
        page.reload()
        shows(page, SAYS)
        page.get_by_label("Mode", exact=True).select_option("edit")
        has_no_ghost(page)
        page.locator(".cm-content").focus()
        page.keyboard.type("z")
        expect(page.locator(".tp-added")).to_have_text(
            "        self.children.<b>z</b>(child)", timeout=60_000
        )
        assert "self.children.append(child)" in page.locator(".tp-removed").inner_text()
        assert asked[-1]["file_contents"] == text
        assert "-        return \n+        return z\n" in asked[-1]["recent_changes"]
        assert asked[-1]["file_path"] == "tree.py"
        page.keyboard.press("Tab")
        assert "self.children.<b>z</b>(child)" in document(page)
        expect(page.locator(".tp-added")).to_have_count(0)


def test_next_edit_is_dismissed(open_page: OpenPage, url: str) -> None:
    from playwright.sync_api import expect

    page = opened(open_page, url)
    with next_edits(page, {"start_index": 0, "end_index": 1, "completion": "x"}):
        page.reload()
        page.get_by_label("Mode", exact=True).select_option("edit")
        before = document(page)
        page.get_by_role("button", name="Complete").click()
        expect(page.locator(".tp-added")).to_have_count(1, timeout=60_000)
        page.locator(".cm-content").focus()
        page.keyboard.press("Escape")
        expect(page.locator(".tp-added")).to_have_count(0)
        assert document(page) == before
