"""Replay of 69 requests recorded from 15 real editors and clients; each response is read as its client would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from tests.clients.exchange import Got, Sent
from tests.clients.readers import READERS, reader_of
from tests.support.fakes import FakeDecoder
from tests.support.serving import MakeClient

FILE = Path(__file__).parents[1] / "data/editor_requests.jsonl"
CAPTURED = [Sent(**json.loads(line)) for line in FILE.read_text("utf-8").splitlines()]
# Requested by clients that work without them: Copilot's newest agent, and tests of client libraries' error handling.
NOT_SERVED = {"/embeddings/models", "/copilot_internal/user", "/telemetry", "/v1/nope"}


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=FakeDecoder(n_ctx=2048))


def replay(client: FlaskClient, sent: Sent) -> Got:
    data = None if sent.body is None else json.dumps(sent.body)
    response = client.open(sent.path, method=sent.method, headers=sent.headers, data=data)
    headers = {k.lower(): v for k, v in response.headers.items()}
    return Got(response.status_code, headers, response.get_data())


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(
            sent,
            marks=pytest.mark.cell(f"replay: {sent.client}", "replay"),  # listed in docs/clients.md
            id=f"{i}: {sent.client} {sent.path}",
        )
        for i, sent in enumerate(CAPTURED)
    ],
)
def test_recorded_request_is_answered(client: FlaskClient, sent: Sent) -> None:
    texts = reader_of(sent.client)(sent, replay(client, sent))
    if sent.method == "GET" or sent.path in NOT_SERVED or sent.path == "/v1/events":
        assert texts == []
    elif sent.max_tokens == 0:
        assert "".join(texts) == ""
    else:
        # Each token of the fake decoder is one letter, and it never ends the text by itself.
        assert len(texts) == sent.n
        for text in texts:
            assert not any(stop in text for stop in sent.stops)
            assert text.isalpha() or any(s.isalpha() for s in sent.stops)
            assert len(text) == sent.max_tokens or "x" in sent.stops or sent.max_tokens > 1024


def test_only_optional_routes_return_404(client: FlaskClient) -> None:
    assert {s.path for s in CAPTURED if replay(client, s).status != 200} == NOT_SERVED
    assert all(replay(client, s).status == 404 for s in CAPTURED if s.path in NOT_SERVED)


def test_every_reader_belongs_to_a_recorded_client() -> None:
    assert {id(reader_of(s.client)) for s in CAPTURED} == {id(r) for r in READERS.values()}
    assert len({s.client for s in CAPTURED}) >= 15


def test_readers_reject_responses_that_break_their_client() -> None:
    """Check faults that once disabled a client silently."""
    spaced = {"content-type": "application/json"}
    vim = next(s for s in CAPTURED if s.client.startswith("llama.vim"))
    answer = json.dumps(dict.fromkeys(vim.body["response_fields"], 1) | {"content": "x"})
    with pytest.raises(AssertionError, match="content"):
        reader_of(vim.client)(vim, Got(200, spaced, answer.encode()))
    copilot = next(s for s in CAPTURED if s.client.startswith("copilot") and s.body)
    plain = b'{"id":"a","created":1,"choices":[{"index":0,"text":"x","finish_reason":"stop"}]}'
    with pytest.raises(AssertionError):
        reader_of(copilot.client)(copilot, Got(200, spaced, plain))
    stream = {"content-type": "text/event-stream"}
    with pytest.raises((AssertionError, ValueError)):
        reader_of(copilot.client)(copilot, Got(200, stream, b"data: " + plain + b"\n\n"))
    fetch = next(s for s in CAPTURED if s.client == "continue fetch")
    with pytest.raises(AssertionError, match="DONE"):
        reader_of(fetch.client)(fetch, Got(200, stream, b"data: " + plain + b"\n\n"))
