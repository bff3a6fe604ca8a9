"""Tests of OpenAI's Node library and Continue's reader against a live server with the bundled model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.clients.asked import FIM, FRAMED, KEY, LONG, PLAIN, WRONG_KEY
from tests.clients.fixtures import require
from tests.clients.live import Live, cancelling, wait_until
from tests.clients.tools import Lines, talk

pytestmark = pytest.mark.clients

ENDED = {"ended": True}


@contextmanager
def driver(
    client: str, live: Live, op: str, body: object = None, key: str = "any", **more: str
) -> Iterator[Lines]:
    asked = {"op": op, "url": live.url, "key": key, "body": body, **more}
    script = client.replace("-", "_") + ".mjs"
    with talk(require(client).node(script, json.dumps(asked))) as lines:
        yield lines


openai_node = partial(driver, "openai-node")
continue_fetch = partial(driver, "continue-fetch", path="/v1/completions")


def all_of(lines: Lines) -> list[Any]:
    """Return all lines of a driver until its end; fail if one is an error."""
    found = []
    while (line := lines.hear()) != ENDED:
        assert line is not None
        assert "error" not in line, line
        found.append(line)
    return found


def text_of(chunks: list[Any]) -> str:
    return "".join(c["choices"][0]["text"] for c in chunks if c["choices"])


@pytest.mark.cell("openai-node", "plain")
def test_openai_plain_completion(live: Live) -> None:
    with openai_node(live, "plain", PLAIN) as lines:
        (answer,) = all_of(lines)
        assert answer["choices"][0]["text"].strip()
        assert 0 < answer["usage"]["completion_tokens"] <= 24
    with openai_node(live, "models") as lines:
        (model,) = all_of(lines)
        assert model["id"] == answer["model"]


@pytest.mark.cell("openai-node", "stream")
def test_openai_stream_has_the_text_of_the_plain_completion(live: Live) -> None:
    with openai_node(live, "stream", {**PLAIN, "stream_options": {"include_usage": True}}) as lines:
        chunks = all_of(lines)
    plain = live.complete(**PLAIN)
    assert text_of(chunks) == plain["choices"][0]["text"]
    assert chunks[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


@pytest.mark.cell("openai-node", "FIM")
def test_openai_suffix_is_sent_to_the_model(live: Live) -> None:
    with openai_node(live, "plain", FIM) as lines:
        (answer,) = all_of(lines)
    framed = live.complete(**FRAMED)
    assert framed["choices"][0]["text"].startswith(answer["choices"][0]["text"])
    assert answer["usage"]["prompt_tokens"] == framed["usage"]["prompt_tokens"]


@pytest.mark.cell("openai-node", "cancel")
def test_openai_aborted_stream_is_cancelled(live: Live) -> None:
    with openai_node(live, "cancel", LONG) as lines, cancelling(live, LONG):
        assert len(all_of(lines)) >= 3


@pytest.mark.cell("openai-node", "cancel")
def test_openai_aborted_plain_request_is_cancelled(live: Live) -> None:
    with openai_node(live, "cancelPlain", LONG) as lines, cancelling(live, LONG):
        wait_until(lambda: live.busy() == LONG["n"])
        lines.say("abort")
        assert lines.hear()["error"] == "APIUserAbortError"


@pytest.mark.cell("openai-node", "auth")
def test_openai_wrong_key_raises_authentication_error(guarded: Live) -> None:
    with openai_node(guarded, "plain", PLAIN, KEY) as lines:
        assert text_of(all_of(lines)).strip()
    with openai_node(guarded, "plain", PLAIN, WRONG_KEY) as lines:
        refused = lines.hear()
        assert (refused["error"], refused["status"]) == ("AuthenticationError", 401)


@pytest.mark.cell("continue-fetch", "plain")
def test_continue_plain_completion(live: Live) -> None:
    with continue_fetch(live, "plain", PLAIN) as lines:
        (answer,) = all_of(lines)
        assert answer["choices"] == live.complete(**PLAIN)["choices"]


@pytest.mark.cell("continue-fetch", "stream")
def test_continue_stream_has_the_text_of_the_plain_completion(live: Live) -> None:
    with continue_fetch(live, "stream", PLAIN) as lines:
        chunks = all_of(lines)
    assert text_of(chunks) == live.complete(**PLAIN)["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.cell("continue-fetch", "FIM")
def test_continue_fim_works_with_tokens_and_with_mistrals_route(live: Live) -> None:
    """Use the model's FIM tokens like Continue's autocompletion, and Mistral's route like its adapters."""
    with continue_fetch(live, "stream", FRAMED) as lines:
        assert text_of(all_of(lines)) == live.complete(**FRAMED)["choices"][0]["text"]
    with continue_fetch(live, "stream", FIM, path="/v1/fim/completions") as lines:
        deltas = [c["choices"][0]["delta"].get("content") or "" for c in all_of(lines)]
    assert "".join(deltas) == live.complete(**FIM)["choices"][0]["text"]


@pytest.mark.cell("continue-fetch", "cancel")
def test_continue_aborted_stream_is_cancelled(live: Live) -> None:
    with continue_fetch(live, "cancel", LONG) as lines, cancelling(live, LONG):
        assert len(all_of(lines)) >= 3


@pytest.mark.cell("continue-fetch", "auth")
def test_continue_wrong_key_returns_401(guarded: Live) -> None:
    with continue_fetch(guarded, "stream", PLAIN, KEY) as lines:
        assert text_of(all_of(lines)).strip()
    with continue_fetch(guarded, "plain", PLAIN, WRONG_KEY) as lines:
        refused = lines.hear()
        assert refused["status"] == 401
        assert isinstance(json.loads(refused["message"])["error"]["message"], str)
