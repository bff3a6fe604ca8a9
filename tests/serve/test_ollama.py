"""Ollama's API: generate, chat, models, and the routes that the server refuses."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient

from serve.http.app import create_app
from serve.models.status import ModelInfo
from tests.support.fakes import FakeDecoder, TalkingDecoder, script
from tests.support.serving import MakeClient, make_service, pool_of

CHAT = {"model": "m", "messages": [{"role": "user", "content": "well"}]}


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=TalkingDecoder(reply=script("yes\nno")))


def lines(client: FlaskClient, path: str, body: dict[str, Any]) -> list[Any]:
    response = client.post(path, json=body)
    assert response.mimetype == "application/x-ndjson"
    return [json.loads(line) for line in response.get_data().splitlines()]


def test_response_has_its_fields(client: FlaskClient) -> None:
    body = {"model": "m", "prompt": "well?", "stream": False, "options": {"stop": ["\n"]}}
    answer = client.post("/api/generate", json=body).get_json()
    assert (answer["model"], answer["response"], answer["done"]) == ("m", "yes", True)
    assert answer["done_reason"] == "stop"
    assert answer["created_at"].endswith("Z")


def test_generate_streams_by_default(client: FlaskClient) -> None:
    body = {"model": "m", "prompt": "well?", "options": {"num_predict": -1, "temperature": 0}}
    *parts, last = lines(client, "/api/generate", body)
    assert "".join(p["response"] for p in parts) == "yes\nno"
    assert all(p["done"] is False for p in parts)
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 6)


def test_empty_prompt_loads_the_model(client: FlaskClient) -> None:
    answer = client.post("/api/generate", json={"model": "m", "prompt": ""}).get_json()
    assert (answer["done"], answer["done_reason"]) == (True, "load")


def test_chat_streams_by_default(client: FlaskClient) -> None:
    *parts, last = lines(client, "/api/chat", {**CHAT, "options": {"temperature": 0}})
    assert "".join(p["message"]["content"] for p in parts) == "yes\nno"
    assert all(p["message"]["role"] == "assistant" and p["done"] is False for p in parts)
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 6)


def test_chat_options_and_format_apply(client: FlaskClient) -> None:
    body = {**CHAT, "stream": False, "options": {"num_predict": 2}}
    answer = client.post("/api/chat", json=body).get_json()
    assert answer["message"]["content"] == "ye"
    assert answer["done_reason"] == "length"
    assert "format must be" in client.post("/api/chat", json={**CHAT, "format": 7}).text


def test_chat_without_messages_loads_the_model(client: FlaskClient) -> None:
    answer = client.post("/api/chat", json={"model": "m", "messages": []}).get_json()
    assert answer["message"] == {"role": "assistant", "content": ""}
    assert (answer["done"], answer["done_reason"]) == (True, "load")


def test_chat_without_a_template_returns_400(make_client: MakeClient) -> None:
    response = make_client(decoder=FakeDecoder()).post("/api/chat", json=CHAT)
    assert response.status_code == 400
    assert "has no chat template" in response.get_json()["error"]


def client_of(model: ModelInfo) -> FlaskClient:
    service, _ = make_service(FakeDecoder())
    service.model = model
    return create_app(pool_of(service)).test_client()


CODER = ModelInfo(
    "org/coder", 4096, 260, 1_700_000_000, n_bytes=986_000_000, n_weights=1_543_714_304, digest="ab" * 32,
    architecture="qwen2", main_type="Q4_K", chat_template="{{ x }}", can_fill=True,
)  # fmt: skip


def test_models_are_listed_with_their_files() -> None:
    client = client_of(CODER)
    (model,) = client.get("/api/tags").get_json()["models"]
    assert model["name"] == model["model"] == "org/coder"
    assert datetime.fromisoformat(model["modified_at"].replace("Z", "+00:00")).year == 2023
    assert (model["size"], model["digest"]) == (986_000_000, "ab" * 32)
    assert model["details"] == {
        "parent_model": "", "format": "gguf", "family": "qwen2", "families": ["qwen2"],
        "parameter_size": "1.5B", "quantization_level": "Q4_K",
    }  # fmt: skip
    assert client.get("/api/ps").get_json()["models"] == [model]


@pytest.mark.parametrize("asked", [{"model": "org/coder"}, {"name": "org/coder"}, {"model": "x"}])
def test_model_is_shown(asked: dict[str, str]) -> None:
    found = client_of(CODER).post("/api/show", json=asked).get_json()
    assert found["capabilities"] == ["completion", "insert"]
    assert ".Suffix" in found["template"]
    info = found["model_info"]
    assert (info["general.architecture"], info["general.basename"]) == ("qwen2", "org/coder")
    assert (info["general.parameter_count"], info["qwen2.context_length"]) == (1_543_714_304, 4096)


def test_model_without_fill_in_the_middle_takes_no_suffix(client: FlaskClient) -> None:
    found = client.post("/api/show", json={"model": "fake"}).get_json()
    assert found["capabilities"] == ["completion"]
    assert ".Suffix" not in found["template"]


def test_version_is_one_that_clients_accept(client: FlaskClient) -> None:
    version = client.get("/api/version").get_json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
def test_embeddings_are_refused_by_name(client: FlaskClient, path: str) -> None:
    response = client.post(path, json={"model": "m", "input": "x"})
    assert response.status_code == 501
    assert response.get_json()["error"].startswith("embeddings are not supported")
