"""All editors with settings for one server, and the request of each that checks them."""

from __future__ import annotations

import json

import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.editors import DEFAULT_MODEL, EDITORS, Editor, find
from turbopilot.editors.checks import PREFIX, SUFFIX, check_of
from turbopilot.editors.entries import KEY_PLACEHOLDER, entries

URL = "http://box.local:4711"


def test_every_editor_has_settings_for_the_url() -> None:
    answer = entries(URL, "demo", False)
    assert [e["name"] for e in answer["editors"]] == [e.name for e in EDITORS]
    for e in answer["editors"]:
        assert any("4711" in s["text"] for s in e["settings"]), e["name"]
        assert e["evidence"].partition(": ")[2]


def test_settings_contain_the_placeholder_only_if_a_key_is_needed() -> None:
    assert KEY_PLACEHOLDER not in json.dumps(entries(URL, "demo", False)["editors"])
    answer = entries(URL, "demo", True)
    assert answer["key_placeholder"] == KEY_PLACEHOLDER
    for editor, e in zip(EDITORS, answer["editors"], strict=True):
        sends_key = KEY_PLACEHOLDER in json.dumps(e["settings"])
        assert sends_key is editor.auth
        assert any("cannot send an API key" in n for n in e["notes"]) is not editor.auth


def test_placeholder_needs_no_quotes_in_a_shell() -> None:
    (llm,) = (e for e in entries(URL, "demo", True)["editors"] if e["name"] == "llm")
    assert f"--value {KEY_PLACEHOLDER}" in json.dumps(llm["settings"])


def test_model_name_that_settings_cannot_contain_is_replaced() -> None:
    for name, wanted in (("demo", "demo"), ("模型", DEFAULT_MODEL), ("", DEFAULT_MODEL)):
        (curl,) = (e for e in entries(URL, name, False)["editors"] if e["name"] == "curl")
        assert curl["check"]["body"]["model"] == wanted


def test_bad_url_is_rejected() -> None:
    with pytest.raises(InvalidInput):
        entries("http://a b", "demo", False)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda e: e.name)
def test_check_has_the_editors_route_and_text(editor: Editor) -> None:
    check = check_of(editor, "qwen/coder 2")
    assert check.path == editor.route.split()[0].replace("*", "qwen/coder%202")
    text = json.dumps(check.body)
    assert json.dumps(PREFIX.splitlines()[0])[1:-1] in text
    if editor.fim == "apart":
        assert json.dumps(SUFFIX) in text
    if editor.fim == "tokens" and editor.name != "cursortab":
        assert "<|fim_prefix|>" in check.body["prompt"]


def test_streaming_plugins_request_a_stream() -> None:
    streams = {e.name for e in EDITORS if check_of(e, "demo").streams}
    assert {"copilot", "continue", "twinny", "minuet"} <= streams
    assert not streams & {"fauxpilot", "llama-vim", "tabby", "zed"}
    (zed,) = find("zed")
    assert check_of(zed, "demo").body["stream"] is False
