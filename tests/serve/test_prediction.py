"""OpenAI's `prediction`: its text is drafted, and the usage states how many of its tokens the model chose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.fakes import TalkingDecoder, script
from tests.support.serving import flask_client

TEXT = "def area(width, height):\n    return width * height\n\n\ndef volume(a, b, c):\n    return a * b * c\n"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Rename it"}]}
PLAIN: dict[str, Any] = {"prompt": "Rename it?"}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", PLAIN)]


def complete(route: str, body: dict[str, Any], prediction: Any) -> tuple[str, dict[str, Any], int]:
    """Return the text, the usage and the number of steps."""
    decoder = TalkingDecoder(reply=script(TEXT))
    if prediction is not None:
        body = {**body, "prediction": {"type": "content", "content": prediction}}
    with flask_client(decoder=decoder) as client:
        answer = client.post(route, json={**body, "max_tokens": 120, "temperature": 0}).get_json()
    choice = answer["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return text, answer["usage"], len(decoder.batches)


@pytest.mark.parametrize(("route", "body"), ROUTES)
def test_right_prediction_saves_steps(route: str, body: dict[str, Any]) -> None:
    text, usage, n_plain = complete(route, body, None)
    assert text == TEXT
    assert "completion_tokens_details" not in usage
    for prediction in (
        TEXT,
        [{"type": "text", "text": TEXT[:40]}, {"type": "text", "text": TEXT[40:]}],
    ):
        text, usage, n_steps = complete(route, body, prediction)
        assert text == TEXT
        details = usage["completion_tokens_details"]
        assert details["rejected_prediction_tokens"] <= 15
        assert details["accepted_prediction_tokens"] > 0.6 * len(TEXT)
        assert n_steps < n_plain / 3
        assert usage["completion_tokens"] == len(TEXT)


def test_prediction_is_used_again_after_an_edit() -> None:
    edited = TEXT.replace("width * height", "depth * height")
    text, usage, _ = complete(*ROUTES[0], edited)
    assert text == TEXT
    details = usage["completion_tokens_details"]
    assert details["rejected_prediction_tokens"] > 0
    assert details["accepted_prediction_tokens"] > len(TEXT) / 2


def test_wrong_prediction_is_rejected_and_changes_no_text() -> None:
    text, usage, _ = complete(*ROUTES[0], "Z" * 400)
    assert text == TEXT
    details = usage["completion_tokens_details"]
    assert details["accepted_prediction_tokens"] == 0
    assert 0 < details["rejected_prediction_tokens"] < 40


def test_stream_ends_with_the_details() -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 120}
    body["prediction"] = {"type": "content", "content": TEXT}
    with flask_client(decoder=TalkingDecoder(reply=script(TEXT))) as client:
        events = client.post("/v1/chat/completions", json=body).text.split("\n\n")
    usage = json.loads(events[-3].removeprefix("data: "))["usage"]
    assert usage["completion_tokens_details"]["accepted_prediction_tokens"] > 0
