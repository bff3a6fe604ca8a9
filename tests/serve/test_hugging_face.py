"""Hugging Face's text generation: plain responses, streams, details, and huggingface_hub as a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from huggingface_hub import InferenceClient

from tests.support.fakes import EOG, FakeDecoder, script
from tests.support.serving import MakeClient, running

PATHS = ("/api/generate", "/generate", "/generate_stream", "/")


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=FakeDecoder(script("yes\nno"), n_batch=64))


def plain(client: FlaskClient, **body: object) -> Any:
    response = client.post("/generate", json={"inputs": "well?", **body})
    return response.get_json()


def stream(client: FlaskClient, path: str = "/generate_stream", **body: object) -> list[Any]:
    response = client.post(path, json={"inputs": "well?", "stream": True, **body})
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    *events, end = response.get_data(as_text=True).split("\n\n")
    assert end == ""
    return [json.loads(e.removeprefix("data:")) for e in events]


def text_of(chunks: list[Any]) -> str:
    return "".join(c["token"]["text"] for c in chunks)


def test_parameters_apply(client: FlaskClient) -> None:
    assert plain(client)["generated_text"] == "yes\nno"
    assert plain(client, max_tokens=2)["generated_text"] == "ye"
    parameters = {"max_new_tokens": 3, "return_full_text": True, "top_k": 4, "do_sample": False}
    assert plain(client, parameters=parameters)["generated_text"] == "well?yes"
    assert plain(client, parameters={"stop": ["\n"]})["generated_text"] == "yes"
    assert "inputs must be a string" in plain(client, inputs=3)["error"]
    assert "parameters.top_p" in plain(client, parameters={"top_p": 7})["error"]


def test_only_the_root_returns_a_list(client: FlaskClient) -> None:
    body = {"inputs": "well?", "stream": False}
    for path in PATHS:
        answer = client.post(path, json=body).get_json()
        if path == "/":
            (answer,) = answer
        assert answer == {"generated_text": "yes\nno", "truncated": False}


@pytest.mark.parametrize("path", PATHS)
def test_stream_has_a_chunk_for_each_token(client: FlaskClient, path: str) -> None:
    chunks = stream(client, path)
    assert [c["index"] for c in chunks] == list(range(1, 7))
    assert [c["token"]["id"] for c in chunks] == list(b"yes\nno")
    assert text_of(chunks) == "yes\nno"
    assert all(c["token"]["logprob"] <= 0 and not c["token"]["special"] for c in chunks)
    *before, last = chunks
    assert all(c["generated_text"] is None and c["details"] is None for c in before)
    assert last["generated_text"] == "yes\nno"
    assert last["details"] == {
        "finish_reason": "eos_token", "generated_tokens": 6, "input_length": 5, "seed": None,
    }  # fmt: skip


def test_generate_stream_streams_by_default(client: FlaskClient) -> None:
    response = client.post("/generate_stream", json={"inputs": "well?"})
    assert response.mimetype == "text/event-stream"


@pytest.mark.parametrize(
    ("parameters", "reason", "text", "n_tokens"),
    [
        ({"max_new_tokens": 2}, "length", "ye", 2),
        ({"stop": ["\n"]}, "stop_sequence", "yes", 4),
        ({"stop": ["e"]}, "stop_sequence", "y", 2),
        ({"stop": ["ys"]}, "eos_token", "yes\nno", 6),
        ({"max_new_tokens": 0}, "length", "", 0),
    ],
)
def test_stream_and_details_have_the_same_end(
    client: FlaskClient, parameters: dict[str, object], reason: str, text: str, n_tokens: int
) -> None:
    parameters = {**parameters, "seed": 3, "details": True}
    chunks = stream(client, parameters=parameters)
    last = chunks[-1]
    assert (last["generated_text"], text_of(chunks)) == (text, text)
    assert last["details"].pop("input_length") == 5
    answer = plain(client, parameters=parameters)
    assert answer["generated_text"] == text
    assert answer["details"].pop("prefill") == []
    tokens = answer["details"].pop("tokens")
    assert "".join(t["text"] for t in tokens) == text
    assert tokens == [c["token"] for c in chunks][: len(tokens)]
    end = {"finish_reason": reason, "generated_tokens": n_tokens, "seed": 3}
    assert answer["details"] == last["details"] == end


def test_stream_without_tokens_ends_with_the_end_of_sequence_token(make_client: MakeClient) -> None:
    (chunk,) = stream(make_client(decoder=FakeDecoder(lambda _: EOG)))
    assert chunk["token"] == {"id": EOG, "text": "", "logprob": None, "special": True}
    assert (chunk["generated_text"], chunk["details"]["generated_tokens"]) == ("", 0)


def test_characters_of_several_tokens_are_whole(make_client: MakeClient) -> None:
    chunks = stream(make_client(decoder=FakeDecoder(script("aä🙂"))))
    assert [c["token"]["text"] for c in chunks] == ["a", "", "ä", "", "", "", "🙂"]
    assert chunks[-1]["generated_text"] == "aä🙂"


def test_details_are_only_returned_on_request(client: FlaskClient) -> None:
    assert set(plain(client)) == {"generated_text", "truncated"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[InferenceClient]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # also blocks loopback
    with running(FakeDecoder(script("yes\nno"), n_batch=64)) as r:
        yield InferenceClient(base_url=f"http://127.0.0.1:{r.port}", timeout=60)


def test_huggingface_hub_reads_plain_responses(hub: InferenceClient) -> None:
    assert hub.text_generation("well?") == "yes\nno"
    found = hub.text_generation("well?", details=True, max_new_tokens=2, seed=4)
    assert (found.generated_text, found.details.finish_reason) == ("ye", "length")
    assert (found.details.generated_tokens, found.details.seed) == (2, 4)
    assert [t.text for t in found.details.tokens] == ["y", "e"]


def test_huggingface_hub_reads_streams(hub: InferenceClient) -> None:
    assert list(hub.text_generation("well?", stream=True)) == list("yes\nno")
    *_, last = hub.text_generation("well?", stream=True, details=True, stop=["\n"])
    assert last.generated_text == "yes"
    assert last.details.finish_reason == "stop_sequence"
    assert last.details.input_length == 5


def test_huggingface_hub_raises_the_servers_error(hub: InferenceClient) -> None:
    with pytest.raises(Exception, match=r"top_p must be at most 1"):
        hub.text_generation("well?", top_p=7)
