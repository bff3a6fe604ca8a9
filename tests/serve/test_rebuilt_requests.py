"""Requests built as clients' sources build them, sent to a live server; each response is read as its client would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.exchange import Got, Sent
from tests.clients.rebuilt import AFTER, BEFORE, READ, REBUILT
from tests.support.fakes import FakeDecoder, TalkingDecoder, around_the_cursor
from tests.support.serving import Running, ask, running

# What a client shows, or reads, if it is not a completion.
READ_FROM = {
    ("llm-gateway", "/v1/models"): "fake", ("llm-gateway", "/api/version"): "0.6.4",
    ("llm-gateway", "/api/show"): "completion", ("completamente", "/health"): "",
    ("ollama-jetbrains", "/api/tags"): "fake", ("llama.vscode", "/health"): "ok", ("llama.vscode", "/v1/models"): "",
    ("llama.vscode", "/props?model=fake&autoload=false"): "", ("llama.vscode", "/tokenize"): "20",
    ("llama.vscode", "/apply-template"): "Be brief.Say hello.?", ("pi-llama", "/v1/models"): "",
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    decoder: FakeDecoder = TalkingDecoder(n_ctx=2048)
    with running(decoder) as r:
        yield r


def send(r: Running, sent: Sent) -> Got:
    status, headers, data = ask(r.port, sent.method, sent.path, sent.body, sent.headers)
    return Got(status, {k.lower(): v for k, v in headers.items()}, data)


@pytest.mark.parametrize(
    "sent", [pytest.param(s, id=f"{i}: {s.client} {s.path}") for i, s in enumerate(REBUILT)]
)
def test_client_can_read_the_response(server: Running, sent: Sent) -> None:
    got = send(server, sent)
    text = READ[sent.client](sent, got)
    if (sent.client, sent.path) in READ_FROM:
        assert text == READ_FROM[sent.client, sent.path]
    elif sent.client == "llama-swap":
        assert text == "8"
    elif sent.client == "pi-llama":
        assert text.startswith("turbopilot ")
    elif sent.max_tokens == 0:
        assert text == ""
    else:
        assert len(text) == sent.max_tokens  # each token of the fake model is one letter
        assert text.isalpha()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(s, id=f"{s.client} {s.path}")
        for s in REBUILT
        if s.client in ("llm-gateway", "proxyai") and "prompt" in (s.body or {})
    ],
)
def test_suffix_reaches_the_model(server: Running, sent: Sent) -> None:
    send(server, sent)
    before, after = around_the_cursor(server.runner.seen[-1].prompt)
    assert (before.strip(), after.strip()) == (BEFORE.strip(), AFTER.strip())


def test_every_reader_belongs_to_a_request() -> None:
    assert {s.client for s in REBUILT} == set(READ)
