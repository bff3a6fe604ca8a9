"""Tests of Ollama's, Mistral's, Hugging Face's, LangChain's and LiteLLM's Python libraries against a live server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.clients.asked import FIM, FRAMED, KEY, MODEL, PLAIN, WRONG_KEY
from tests.clients.fixtures import require
from tests.clients.live import Live
from tests.clients.tools import DRIVERS, Lines, talk
from tests.support.fakes import FakeDecoder
from tests.support.serving import running, wait

pytestmark = pytest.mark.clients

ENDED = {"ended": True}
# Mistral's API has only fill-in-the-middle for models without a chat template.
WHOLE = {
    "ollama": PLAIN, "mistralai": FIM, "huggingface_hub": PLAIN, "langchain-openai": PLAIN, "litellm": PLAIN,
}  # fmt: skip
# huggingface_hub has no parameter for a suffix.
MIDDLE = {**dict.fromkeys(WHOLE, FIM), "huggingface_hub": FRAMED}
# The message of the error for a wrong key.
REFUSED = {
    "ollama": "invalid API key", "mistralai": "401", "huggingface_hub": "401", "langchain-openai": "401",
    "litellm": "invalid API key",
}  # fmt: skip

Test = Callable[..., None]


def cells(what: str, *clients: str) -> Callable[[Test], Test]:
    """Run a test for these clients, by default for all, and mark the cell of each."""
    names = clients or tuple(WHOLE)
    cases = [pytest.param(n, marks=pytest.mark.cell(n, what), id=n) for n in names]
    return pytest.mark.parametrize("client", cases)


@contextmanager
def driver(client: str, url: str, op: str, body: Any = None, key: str = "any") -> Iterator[Lines]:
    asked = {"client": client, "op": op, "url": url, "key": key, "body": body}
    python = str(require(client).python)
    with talk([python, str(DRIVERS / "pypi_clients.py"), json.dumps(asked)]) as lines:
        yield lines


def all_of(client: str, url: str, op: str, body: Any = None, key: str = "any") -> list[Any]:
    """Return all lines of a driver until its end; fail if one is an error."""
    found = []
    with driver(client, url, op, body, key) as lines:
        while (line := lines.hear()) != ENDED:
            assert line is not None
            assert "error" not in line, line
            found.append(line)
    return found


def text_of(lines: list[Any]) -> str:
    return "".join(line["text"] for line in lines)


def expected(live: Live, body: dict[str, Any]) -> str:
    return str(live.complete(**body)["choices"][0]["text"])


@cells("plain")
def test_plain_completion(live: Live, client: str) -> None:
    (answer,) = all_of(client, live.url, "plain", WHOLE[client])
    assert answer["text"].strip()
    assert answer["text"] == expected(live, WHOLE[client])


@cells("plain", "ollama", "mistralai")
def test_models_are_listed_and_described(live: Live, client: str) -> None:
    status, data = live.ask("GET", "/v1/models")
    name = json.loads(data)["data"][0]["id"]
    assert status == 200
    assert all_of(client, live.url, "models") == [{"model": name}, {"model": name}]


@cells("stream")
def test_stream_has_the_text_of_the_plain_completion(live: Live, client: str) -> None:
    pieces = all_of(client, live.url, "stream", WHOLE[client])
    assert len(pieces) > 2
    assert text_of(pieces) == expected(live, WHOLE[client])


@cells("FIM")
def test_middle_is_filled_in(live: Live, client: str) -> None:
    text = text_of(all_of(client, live.url, "plain", MIDDLE[client]))
    assert text == expected(live, MIDDLE[client])


@cells("cancel")
def test_closed_stream_is_cancelled(client: str) -> None:
    """Close the stream while the decoder waits at a gate."""
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate, n_batch=64)) as server:
        body = {"model": MODEL, "prompt": "count", "max_tokens": 64}
        with driver(client, f"http://127.0.0.1:{server.port}", "cancel", body) as lines:
            wait(server.runner.submitted)
            gate.release(8)
            wait(server.runner.cancelled)
            assert lines.hear()["text"]


@cells("auth")
def test_wrong_key_is_an_error(guarded: Live, client: str) -> None:
    assert text_of(all_of(client, guarded.url, "plain", WHOLE[client], KEY)).strip()
    with driver(client, guarded.url, "plain", WHOLE[client], WRONG_KEY) as lines:
        refused = lines.hear()
        assert REFUSED[client] in refused["message"]
        assert KEY not in refused["message"]
