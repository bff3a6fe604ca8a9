"""The set-up view of the page: settings to copy, and the check of an editor's request."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.clients.live import Live
from tests.page.axe import serious_violations
from tests.page.conftest import OpenPage
from tests.page.talking import HOSTILE, talking_server
from tests.page.watched import SCREENS, Watch
from turbopilot.editors.entries import KEY_PLACEHOLDER

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.page

CLIPBOARD = "navigator.clipboard.readText()"


def choose(page: Page, plugin: str) -> None:
    page.get_by_label("Find an editor or plugin").fill(plugin)
    page.get_by_role("navigation").get_by_role("button", name=plugin, exact=True).first.click()
    page.get_by_role("heading", name=plugin, exact=True).wait_for()


def checked(page: Page, plugin: str) -> str:
    """Send a plugin's request and return what the page says about the answer."""
    choose(page, plugin)
    page.get_by_role("button", name="Send the request").click()
    page.locator(".steps").wait_for()
    return str(page.locator(".result").inner_text())


def with_key(page: Page, key: str) -> None:
    page.get_by_label("requires an API key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_role("navigation").get_by_role("button").first.wait_for()


def test_settings_have_the_address_of_the_page(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    choose(page, "llama.vscode")
    block = page.get_by_label("settings.json", exact=True)
    assert f'"llama-vscode.endpoint": "{live.url}"' in block.inner_text()


def test_list_is_searched_by_plugin_and_program(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    entries = page.get_by_role("navigation").get_by_role("button")
    entries.first.wait_for()
    everything = entries.count()
    page.get_by_label("Find an editor or plugin").fill("jet brains")
    assert 0 < entries.count() < everything
    assert "ProxyAI" in entries.all_inner_texts()
    page.get_by_label("Find an editor or plugin").fill("nonesuch")
    page.get_by_text("No editor matches.").wait_for()


def test_settings_are_copied(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    choose(page, "Continue")
    page.get_by_role("button", name="Copy: ~/.continue/config.yaml", exact=True).click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate(CLIPBOARD) == page.locator("pre code").first.inner_text()


def test_key_is_filled_in_only_while_copying(
    open_page: OpenPage, guarded: Live, watch: Watch
) -> None:
    watch.allow("status of 401")
    page = open_page(guarded.url, "setup")
    with_key(page, guarded.key)
    choose(page, "Continue")
    copy = page.get_by_role("button", name="Copy: ~/.continue/config.yaml", exact=True)
    for ticked, key in ((False, KEY_PLACEHOLDER), (True, guarded.key)):
        page.get_by_label("Copy with my key").set_checked(ticked)
        copy.click()
        page.get_by_text("Copied").wait_for()
        assert f'apiKey: "{key}"' in page.evaluate(CLIPBOARD)
    assert guarded.key not in page.content()


def test_text_is_selected_where_pages_may_not_copy(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    choose(page, "Zed" if page.get_by_role("button", name="Zed").count() else "Edit Prediction")
    page.get_by_role("button", name="Copy: settings.json", exact=True).click()
    page.get_by_text("Press Ctrl+C").wait_for()
    assert page.evaluate("getSelection().toString()").strip().startswith("{")


@pytest.mark.parametrize(
    "plugin",
    [
        "vscode-fauxpilot",
        "llama.vim",
        "minuet-ai.nvim",
        "Tabby",
        "Ollama Completion",
        "GitHub Copilot",
        "Zed",
    ],
)
def test_check_shows_the_completion(open_page: OpenPage, live: Live, plugin: str) -> None:
    page = open_page(live.url, "setup")
    text = checked(page, plugin if plugin != "Zed" else "Edit Prediction")
    assert "The editor would show this completion" in text
    assert page.locator(".completion").inner_text().strip()


def test_check_of_a_plugin_without_keys_is_explained(
    open_page: OpenPage, guarded: Live, watch: Watch
) -> None:
    watch.allow("status of 401")
    page = open_page(guarded.url, "setup")
    with_key(page, guarded.key)
    assert "cannot send an API key" in checked(page, "GitHub Copilot")
    assert "would show this completion" in checked(page, "minuet-ai.nvim")


@pytest.mark.parametrize(
    ("status", "advice"),
    [(403, "--cors-origin"), (404, "base URL"), (503, "queue"), (502, "proxy"), (0, "has stopped")],
)
def test_failures_are_explained(
    open_page: OpenPage, live: Live, watch: Watch, status: int, advice: str
) -> None:
    watch.allow("Failed to load resource")
    page = open_page(live.url, "setup")
    error = {"error": {"message": "what the server says"}}
    page.route(
        "**/infill",
        lambda route: route.fulfill(status=status, json=error) if status else route.abort(),
    )
    text = checked(page, "llama.vim")
    assert "The editor would show nothing" in text
    assert advice in text
    assert "what the server says" in text or not status


def test_stream_that_is_cut_off_is_noticed(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    body = 'data: {"choices": [{"text": "x"}]}\n\n'
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )
    assert "cut off" in checked(page, "minuet-ai.nvim")


def test_hostile_completion_is_shown_as_text(open_page: OpenPage, live: Live) -> None:
    page = open_page(live.url, "setup")
    answer = {"content": HOSTILE}
    page.route("**/infill", lambda route: route.fulfill(json=answer))
    checked(page, "llama.vim")
    assert page.locator(".completion").evaluate("e => e.textContent") == HOSTILE
    assert page.title() == "TurboPilot"
    assert page.locator("#setup :is(script, img)").count() == 0


def test_server_without_editors_refers_to_the_command_line(
    open_page: OpenPage, servers: ExitStack
) -> None:
    url = servers.enter_context(talking_server("x"))
    open_page(url, "setup").get_by_text("see turbopilot editors").wait_for()


@pytest.mark.parametrize("screen", SCREENS)
def test_editor_with_its_check_is_accessible(open_page: OpenPage, live: Live, screen: str) -> None:
    page = open_page(live.url, "setup", SCREENS[screen])
    checked(page, "Continue")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert serious_violations(page) == []
