"""Routes of the server through Flask's client, with a fake decoder."""

from __future__ import annotations

import gzip
import json
import logging
import struct
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from serve.settings import Defaults
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import MakeClient
from turbopilot.base.errors import DecoderFailed

Post = Callable[..., TestResponse]


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=FakeDecoder(script("yes\nno")))


def complete(client: FlaskClient, **body: object) -> TestResponse:
    return client.post("/v1/completions", json={"prompt": "well?", **body})


def frames(response: TestResponse) -> list[dict[str, Any]]:
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    *events, done, end = response.get_data().split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    assert all(e.startswith(b"data: ") for e in events)
    return [json.loads(e[len(b"data: ") :]) for e in events]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions", "/v1/engines/codegen/completions", "/v1/engines/copilot-codex/completions",
        "/v1/engines/any/thing/completions",
    ],
)  # fmt: skip
def test_completion_works_on_every_path(client: FlaskClient, path: str) -> None:
    response = client.post(path, json={"prompt": "well?"})
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    body = response.get_json()
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert isinstance(body["created"], int)
    assert body["choices"] == [
        {"index": 0, "text": "yes\nno", "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 6
    assert body["usage"]["total_tokens"] == 11
    assert body["truncated"] is False


def test_response_is_compact_json_on_one_line(client: FlaskClient) -> None:
    data = complete(client).get_data()
    assert b'"text":"yes\\nno"' in data
    assert b"\n" not in data
    assert b'": ' not in data


def test_max_tokens_ends_with_reason_length(client: FlaskClient) -> None:
    (choice,) = complete(client, max_tokens=2).get_json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ye", "length")
    (choice,) = complete(client, max_tokens=0).get_json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [("\n", "yes"), (["\n"], "yes"), (["x", "s\nn", *"1234567890"], "ye"), ("s\nno", "ye")],
)
def test_text_ends_before_the_stop_string(client: FlaskClient, stop: object, text: str) -> None:
    (choice,) = complete(client, stop=stop).get_json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")


@pytest.mark.parametrize("stop", [None, [], ""])
def test_empty_stop_does_not_end_the_text(client: FlaskClient, stop: object) -> None:
    assert complete(client, stop=stop).get_json()["choices"][0]["text"] == "yes\nno"


def test_several_choices_and_prompts(client: FlaskClient) -> None:
    body = complete(client, prompt=["well?", "or not?"], n=2, max_tokens=3).get_json()
    assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in body["choices"]] == ["yes"] * 4
    assert body["usage"]["prompt_tokens"] == 5 + 7
    assert body["usage"]["completion_tokens"] == 12


def test_stream_chunks_join_to_the_text(client: FlaskClient) -> None:
    chunks = frames(complete(client, stream=True, n=2))
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"text_completion"}
    assert len({(c["created"], c["model"]) for c in chunks}) == 1
    assert all("usage" not in c for c in chunks)
    for index in (0, 1):
        mine = [x for c in chunks for x in c["choices"] if x["index"] == index]
        assert "".join(x["text"] for x in mine) == "yes\nno"
        assert [x["finish_reason"] for x in mine] == [None] * (len(mine) - 1) + ["stop"]
        assert all(x["logprobs"] is None for x in mine)


def test_stream_ends_with_usage_if_requested(client: FlaskClient) -> None:
    *chunks, last = frames(complete(client, stream=True, stream_options={"include_usage": True}))
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 11


@pytest.mark.parametrize("stream", [False, None])
def test_stream_false_or_null_is_json(client: FlaskClient, stream: object) -> None:
    assert complete(client, stream=stream).mimetype == "application/json"


def test_seed_repeats_and_equal_requests_differ(make_client: MakeClient) -> None:
    client = make_client(decoder=FakeDecoder())
    hot: dict[str, Any] = {"temperature": 50, "top_p": 1, "max_tokens": 30}

    def text(**more: object) -> str:
        return str(complete(client, **hot, **more).get_json()["choices"][0]["text"])

    assert text(seed=5) == text(seed=5)
    assert text(seed=5) != text(seed=6)
    assert len({text(), text(), text()}) == 3
    choices = complete(client, **hot, seed=5, n=3).get_json()["choices"]
    assert len({c["text"] for c in choices}) == 3


def test_server_defaults_apply(make_client: MakeClient) -> None:
    client = make_client(decoder=FakeDecoder(), defaults=Defaults(max_tokens=3, temperature=0))
    choice = complete(client).get_json()["choices"][0]
    assert len(choice["text"]) == 3


def test_suffix_frames_the_prompt(make_client: MakeClient) -> None:
    decoder = FakeDecoder()
    client = make_client(decoder=decoder)
    body = complete(client, prompt="ab", suffix="cd", max_tokens=1).get_json()
    assert body["usage"]["prompt_tokens"] == 7
    decoder.fim = None
    body = complete(client, prompt="ab", suffix="cd", max_tokens=1).get_json()
    assert body["usage"]["prompt_tokens"] == 2


def test_truncation_is_reported(client: FlaskClient) -> None:
    response = complete(client, prompt="x" * 1000 + "?", max_tokens=4096)
    assert response.get_json()["truncated"] is True
    assert response.headers["X-TurboPilot-Truncated"] == "prompt, max_tokens"
    last = frames(complete(client, prompt="x" * 1000 + "?", stream=True))[-1]
    assert last["truncated"] is True
    assert "X-TurboPilot-Truncated" not in complete(client).headers


def test_tabby_segments_frame_the_prompt(client: FlaskClient) -> None:
    body = client.post("/v1/completions", json={"segments": {"prefix": "a", "suffix": "b"}})
    assert body.get_json()["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_any_content_type_is_read_as_json(client: FlaskClient, content_type: str) -> None:
    response = client.post("/v1/completions", data=b'{"prompt":"well?"}', content_type=content_type)
    assert response.status_code == 200


BAD: list[tuple[object, str]] = [
    ({}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": []}, "prompt"), ({"prompt": [1, "a"]}, "prompt"), ({"prompt": "x", "suffix": 1}, "suffix"),
    ({"prompt": "x", "max_tokens": "many"}, "max_tokens"), ({"prompt": "x", "max_tokens": -1}, "max_tokens"),
    ({"prompt": "x", "max_tokens": True}, "max_tokens"), ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
    ({"prompt": "x", "temperature": "hot"}, "temperature"), ({"prompt": "x", "temperature": -1}, "temperature"),
    ({"prompt": "x", "top_p": 2}, "top_p"), ({"prompt": "x", "n": 0}, "n"), ({"prompt": "x", "n": 10**6}, "n"),
    ({"prompt": ["x"] * 100, "n": 2}, "n"), ({"prompt": "x", "stop": 3}, "stop"),
    ({"prompt": "x", "stop": ["a", 3]}, "stop"), ({"prompt": "x", "seed": "s"}, "seed"),
    ({"prompt": "x", "stream": "yes"}, "stream"), ({"prompt": "x", "stream_options": 1}, "stream_options"),
    ({"prompt": "x", "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), BAD)
def test_error_names_the_invalid_field(client: FlaskClient, body: object, param: str) -> None:
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param.split(".")[-1] in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"[]", b'"text"', b"null", b"\xff\xfe{}", b'{"prompt":"x","n":NaN}',
        b'{"prompt":"x","temperature":1e999}', b"[" * 100_000, b'{"prompt":"x","seed":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/api/generate"])
def test_malformed_body_returns_400(client: FlaskClient, path: str, body: bytes) -> None:
    if path == "/api/generate":
        body = body.replace(b'"prompt"', b'"inputs"').replace(b'"n":NaN', b'"max_tokens":NaN')
        body = body.replace(b'"temperature":1e999', b'"parameters":{"temperature":1e999}')
    response = client.post(path, data=body)
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert isinstance(error if path == "/api/generate" else error["message"], str)


@pytest.mark.parametrize("path", ["/v1/completions", "/infill", "/api/generate"])
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate, br", "x" * 5000])
def test_compressed_body_returns_415_in_each_dialect(
    client: FlaskClient, path: str, coding: str
) -> None:
    body = gzip.compress(b'{"prompt":"well?","inputs":"well?"}')
    response = client.post(path, data=body, headers={"Content-Encoding": coding})
    assert response.status_code == 415
    assert response.headers["Accept-Encoding"] == "identity"
    error = response.get_json()["error"]
    message = error if path == "/api/generate" else error["message"]
    assert coding[:100] in message
    assert len(message) < 300
    if path != "/api/generate":
        assert error["code"] == "unsupported_content_encoding"


def test_null_is_absent_and_unknown_fields_are_ignored(client: FlaskClient) -> None:
    fields = (
        "suffix", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "stream",
        "stream_options", "frequency_penalty", "presence_penalty", "model", "user", "logit_bias",
    )  # fmt: skip
    response = complete(client, **dict.fromkeys(fields), extra={"a": 1}, nwo="x", id_slot=3)
    assert response.get_json()["choices"][0]["text"] == "yes\nno"


@pytest.mark.parametrize("model", [None, "", "fastertransformer", "google/gemini-2.5-flash", 7])
def test_any_model_name_is_accepted(client: FlaskClient, model: object) -> None:
    assert complete(client, model=model).status_code == 200


def test_lone_surrogate_and_nul_are_accepted(client: FlaskClient) -> None:
    response = client.post("/v1/completions", data=b'{"prompt":"\\ud800 \\u0000 well?"}')
    assert response.get_json()["choices"][0]["text"] == "yes\nno"


@pytest.mark.parametrize("method", ["get", "post", "put"])
def test_unknown_path_returns_404_in_json(client: FlaskClient, method: str) -> None:
    response = getattr(client, method)("/v1/nope", json={})
    assert response.status_code == 404
    assert response.get_json()["error"]["message"].startswith("Not Found")
    response = getattr(client, method)("/api/nope", json={})
    assert isinstance(response.get_json()["error"], str)


def test_models_are_listed(client: FlaskClient) -> None:
    (model,) = client.get("/v1/models").get_json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("fake", "model", 256)
    assert client.get("/v1/models/fake").get_json() == model


def test_listed_models_have_the_fields_that_mistrals_clients_require(client: FlaskClient) -> None:
    (model,) = client.get("/v1/models").get_json()["data"]
    assert (model["type"], model["max_context_length"]) == ("base", 256)
    assert model["capabilities"]["completion_fim"] is False


@pytest.mark.parametrize("name", ["nope", "any/name", "x" * 5000])
def test_unknown_model_returns_404(client: FlaskClient, name: str) -> None:
    response = client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    error = response.get_json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "model")
    assert error["code"] == "model_not_found"
    assert name[:10] in error["message"]
    assert len(error["message"]) < 200


def test_copilot_token_is_issued(client: FlaskClient) -> None:
    body = client.get("/copilot_internal/v2/token", headers={"Authorization": "token x"}).get_json()
    assert (body["token"], body["refresh_in"]) == ("1", 900)
    assert isinstance(body["expires_at"], int)


def test_status_page_and_health_respond(client: FlaskClient) -> None:
    assert client.get("/").get_data(as_text=True).startswith("Hello world")
    assert client.get("/health").get_json()["status"] == "ok"


def test_failed_decode_returns_500_and_next_request_works(make_client: MakeClient) -> None:
    failures = [DecoderFailed("boom"), DecoderFailed("boom")]
    client = make_client(
        decoder=FakeDecoder(script("yes"), fail=lambda _: failures.pop() if failures else None)
    )
    response = complete(client)
    assert response.status_code == 500
    assert response.get_json()["error"]["message"] == "boom"
    data = complete(client, stream=True).get_data()
    assert data.startswith(b'data: {"error":{"message":"boom"')
    assert b"[DONE]" not in data
    assert complete(client).get_json()["choices"][0]["text"] == "yes"
    assert client.get("/health").status_code == 200


def test_broken_engine_returns_500(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(_: object) -> None:
        raise RuntimeError("a bug")

    client = make_client(decoder=FakeDecoder(fail=explode))
    for _ in range(3):
        response = complete(client)
        assert response.status_code == 500
        assert "the engine failed: a bug" in response.get_json()["error"]["message"]
        assert client.get("/health").status_code == 200  # the engine was restarted
    for _ in range(2):
        assert complete(client).status_code == 500
    health = client.get("/health")
    assert health.status_code == 503
    assert health.get_json()["status"] == "failed"
    assert "a bug" in health.get_json()["reason"]
    assert client.get("/v1/models").status_code == 200


def test_keys_and_prompts_are_not_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path, body in (
        ("/v1/completions?key=s3cret", {"prompt": "s3cret?"}),
        ("/v1/completions", {"prompt": "s3cret", "n": "bad"}),
        ("/nope%0Aforged", {}),
    ):
        client.post(path, json=body, headers={"Authorization": "Bearer s3cret"}).close()
    assert "POST /v1/completions 200" in caplog.text
    assert "s3cret" not in caplog.text
    assert "\nforged" not in caplog.text


def test_any_integer_seed_is_accepted(client: FlaskClient) -> None:
    for seed in (0, -1, 2**63 - 1, 2**64, struct.unpack("<q", b"\xff" * 8)[0]):
        assert complete(client, seed=seed).status_code == 200
