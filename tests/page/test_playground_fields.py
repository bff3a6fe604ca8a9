"""The playground: fields of the sampling, alternatives, languages and models."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.live import live_server
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
from tests.page.watched import DARK, NARROW, Screen

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.page


def test_nothing_is_asked_for_if_that_is_switched_off(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    page.get_by_label("Complete while typing").uncheck()
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    page.locator(".cm-content").focus()
    page.keyboard.type("q")
    has_no_ghost(page)
    assert not requests or "/completions" not in requests[-1]
    page.keyboard.press("Alt+\\")
    shows(page, SAYS)


def test_alternatives_are_cycled(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    answer_with(page, choices("one", "two", "one", "three"))
    with page.expect_request(ROUTE) as found:
        page.get_by_label("Alternatives").fill("4")
        page.get_by_label("Alternatives").press("Enter")
    body = body_of(found.value)
    assert (body["n"], body["temperature"], body["top_p"]) == (4, 0.8, 0.95)
    shows(page, "one")
    says(page, "^1 of 3$")
    page.locator(".cm-content").focus()
    for key, text, place in (
        ("]", "two", 2),
        ("]", "three", 3),
        ("]", "one", 1),
        ("[", "three", 3),
    ):
        page.keyboard.press(f"Alt+{key}")
        shows(page, text)
        says(page, f"^{place} of 3$")
    page.keyboard.press("Tab")
    assert "return three\n" in document(page)


def test_tokens_are_coloured_by_probability(page: Page) -> None:
    from playwright.sync_api import expect

    with page.expect_request(ROUTE) as found:
        page.get_by_label("Colour by probability").check()
    assert body_of(found.value)["logprobs"] == 0
    expect(ghost(page).locator(".p0, .p1, .p2, .p3").first).to_be_visible(timeout=60_000)


def test_sampling_fields_are_sent_and_checked(open_page: OpenPage, url: str) -> None:
    from playwright.sync_api import expect

    page = opened(open_page, url)
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.2")
    page.get_by_label("Seed").fill("-1")  # out of range
    for label, value in (("Temperature", "0.7"), ("top_p", "0.9"), ("Max. tokens", "9")):
        page.get_by_label(label).fill(value)
    with page.expect_request(ROUTE) as found:
        page.get_by_label("Stop at").select_option("line")
    body = body_of(found.value)
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["stop"]) == (
        0.7,
        0.9,
        9,
        ["\n"],
    )
    assert "seed" not in body


def test_each_language_has_a_sample_and_keeps_its_text(open_page: OpenPage, url: str) -> None:
    page = opened(open_page, url)
    page.keyboard.type("mine")
    languages = page.get_by_label("Language")
    names = languages.locator("option").evaluate_all("(options) => options.map((o) => o.value)")
    assert len(names) >= 8
    seen = {document(page)}
    for name in names[1:]:
        with page.expect_request(ROUTE) as found:
            languages.select_option(name)
        body = body_of(found.value)
        assert len(body["prompt"]) > 20
        seen.add(document(page))
    assert len(seen) == len(names)
    languages.select_option(names[0])
    assert "return mine\n" in document(page)
    page.get_by_role("button", name="Reset file").click()
    assert "return \n" in document(page)


@pytest.mark.parametrize("screen", [DARK, NARROW], ids=["dark", "narrow"])
def test_buttons_accept_without_a_keyboard(open_page: OpenPage, url: str, screen: Screen) -> None:
    page = opened(open_page, url, screen)
    for name in ("Accept", "Word", "Dismiss"):
        assert page.get_by_role("button", name=name).is_enabled()
    page.get_by_role("button", name="Word").click()
    shows(page, ".x + self.y")
    page.get_by_role("button", name="Accept").click()
    assert f"return {SAYS}\n" in document(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_model_is_chosen_among_several(
    open_page: OpenPage, servers: ExitStack, model_cache: Path, demo_gguf: Path
) -> None:
    server = servers.enter_context(live_server(model_cache, "--model", f"other={demo_gguf}"))
    page = open_page(server.url)
    ghost(page).wait_for(timeout=60_000)
    model = page.locator("#playground").get_by_label("Model", exact=True)
    with page.expect_response(lambda r: r.url.endswith("/v1/completions")) as found:
        model.select_option("other")
    assert body_of(found.value.request)["model"] == "other"
    assert '"model":"other"' in found.value.text()
