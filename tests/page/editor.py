"""Helpers of the tests of the playground: its editor, its ghost text, and answers of a fake server."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tests.page.watched import LIGHT, Screen

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.page.conftest import OpenPage

ROUTE = "**/v1/completions"
SAYS = "self.x + self.y"
# The document, without ghost text.
_DOCUMENT = """() => {
  const root = document.querySelector(".editor-host").shadowRoot;
  return [...root.querySelectorAll(".cm-line")].map((line) => {
    const copy = line.cloneNode(true);
    for (const ghost of copy.querySelectorAll(".tp-ghost")) ghost.remove();
    return copy.textContent;
  }).join("\\n");
}"""


def ghost(page: Page) -> Locator:
    return page.locator(".tp-ghost")


def document(page: Page) -> str:
    text: str = page.evaluate(_DOCUMENT)
    return text


def message(page: Page) -> Locator:
    return page.locator(".message")


def shows(page: Page, text: str) -> None:
    """Wait until this ghost text is shown, and nothing else."""
    from playwright.sync_api import expect

    expect(ghost(page)).to_have_text(text, timeout=60_000)


def says(page: Page, pattern: str) -> None:
    """Wait until the message below the editor has a match."""
    from playwright.sync_api import expect

    expect(message(page)).to_have_text(re.compile(pattern), timeout=60_000)


def has_no_ghost(page: Page) -> None:
    from playwright.sync_api import expect

    expect(ghost(page)).to_have_count(0)


def body_of(request: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.post_data)
    return found


def stream(*chunks: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(c)}\n\n" for c in (*chunks, None)).replace(
        "data: null", "data: [DONE]"
    )


def choices(*texts: str) -> str:
    """Return a stream with these completions."""
    found = [{"index": i, "text": t, "finish_reason": "stop"} for i, t in enumerate(texts)]
    return stream({"id": "cmpl-fake", "model": "fake", "choices": found})


def answer_with(page: Page, body: str, status: int = 200) -> None:
    """Answer requests for completions with this stream."""
    page.route(
        ROUTE,
        lambda route: route.fulfill(status=status, body=body, content_type="text/event-stream"),
    )


def opened(open_page: OpenPage, url: str, screen: Screen = LIGHT) -> Page:
    """Open the playground, and wait until its sample is completed."""
    page = open_page(url, screen=screen)
    shows(page, SAYS)
    return page
