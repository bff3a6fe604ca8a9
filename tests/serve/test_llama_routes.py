"""llama.cpp's routes about the server: timings, `/props`, `/slots`, the tokenizer, and the chat template."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from serve.api.llama_tokenizer import MAX_TEXT, MAX_TOKENS
from serve.api.timings import timings
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.models import ModelPool, PooledModel
from serve.models.loading import make_pool
from serve.models.status import ModelInfo
from serve.request import GenerationRequest, SamplingParams, Usage
from serve.security_options import SecurityOptions
from serve.settings import Defaults, ModelOptions, ServerOptions
from tests.support.fakes import EOG, FIM, FakeDecoder, TalkingDecoder, script
from tests.support.serving import MakeClient, flask_client, make_service, pool_of

ROUTES: dict[str, dict[str, object]] = {
    "/v1/completions": {"prompt": "well?"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "well"}]},
    "/v1/fim/completions": {"prompt": "well?"},
    "/completion": {"prompt": "well?"},
    "/infill": {"prompt": "well?"},
}
OF_OPENAI = [path for path in ROUTES if path.startswith("/v1")]
SECRET = "swordfish xylophone"


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=TalkingDecoder(reply=script("yes\nno"), fim=None))


def post(client: FlaskClient, path: str, **body: object) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json


def chunks(client: FlaskClient, path: str, **body: object) -> list[Any]:
    response = client.post(path, json={**ROUTES[path], "stream": True, **body})
    assert response.status_code == 200
    events = [e.removeprefix("data: ") for e in response.text.split("\n\n") if e]
    return [json.loads(e) for e in events if e != "[DONE]"]


@pytest.mark.parametrize("path", ROUTES)
def test_whole_response_has_timings(client: FlaskClient, path: str) -> None:
    found = post(client, path, **ROUTES[path])["timings"]
    assert found["prompt_n"] + found["cache_n"] == 5
    assert found["predicted_n"] == 6


@pytest.mark.parametrize("path", ROUTES)
def test_last_chunk_of_a_stream_has_timings(client: FlaskClient, path: str) -> None:
    *first, last = chunks(client, path)
    assert last["timings"]["predicted_n"] == 6
    assert first
    assert not any("timings" in c for c in first)


@pytest.mark.parametrize("path", ROUTES)
def test_each_chunk_has_timings_on_request(client: FlaskClient, path: str) -> None:
    found = chunks(client, path, timings_per_token=True)
    texts = [c for c in found if "timings" in c]
    assert [c["timings"]["predicted_n"] for c in texts] == [1, 2, 3, 4, 5, 6, 6]
    assert len(texts) >= len(found) - 1  # a chat begins with a chunk that has no text


@pytest.mark.parametrize("path", OF_OPENAI)
def test_chunk_with_usage_has_the_timings_of_all_choices(client: FlaskClient, path: str) -> None:
    body: dict[str, object] = {} if "fim" in path else {"n": 2}
    *_, last = chunks(client, path, stream_options={"include_usage": True}, **body)
    assert last["choices"] == []
    assert last["timings"]["predicted_n"] == last["usage"]["completion_tokens"]
    assert last["usage"]["completion_tokens"] == (12 if body else 6)


def test_speed_of_decoding_does_not_count_the_first_token() -> None:
    usage = Usage(10, 5, 4, prompt_seconds=0.5, predict_seconds=2.0)
    found = timings(usage)
    assert (found["cache_n"], found["prompt_n"], found["prompt_ms"]) == (4, 6, 500.0)
    assert found["prompt_per_second"] == pytest.approx(12.0)
    assert found["predicted_per_second"] == pytest.approx(2.0)
    assert found["predicted_per_token_ms"] == pytest.approx(500.0)
    assert "draft_n" not in found
    one = timings(Usage(10, 1, prompt_seconds=0.5))
    assert one["predicted_per_second"] == one["predicted_per_token_ms"] == 0.0
    drafted = timings(Usage(10, 5, drafted_tokens=3, accepted_tokens=2))
    assert (drafted["draft_n"], drafted["draft_n_accepted"]) == (3, 2)


def test_props_have_the_defaults_of_the_server(make_client: MakeClient) -> None:
    defaults = Defaults(max_tokens=77, temperature=0.5, top_p=0.25)
    client = make_client(decoder=FakeDecoder(n_seq=3), defaults=defaults)
    found = client.get("/props").get_json()
    settings = found["default_generation_settings"]
    assert settings["n_ctx"] == 256
    params = settings["params"]
    assert (params["n_predict"], params["temperature"], params["top_p"]) == (77, 0.5, 0.25)
    assert found["modalities"] == {"vision": False, "audio": False, "video": False}
    assert found["fim_layout"] == "starcoder"
    assert not found["is_sleeping"]


def test_props_describe_the_file_but_not_its_folder(demo_gguf: Path) -> None:
    options = ServerOptions(demo_gguf, model=ModelOptions(ctx=512, n_seq=2))
    pool = make_pool(options, lambda _: None)
    client = create_app(pool).test_client()
    response = client.get("/props")
    found = response.get_json()
    assert found["default_generation_settings"]["n_ctx"] == 512
    assert found["total_slots"] == 2
    assert found["model_path"] == demo_gguf.name
    assert str(demo_gguf.parent) not in response.text
    assert (found["bos_token"], found["eos_token"]) == ("<|endoftext|>", "<|endoftext|>")
    assert found["is_sleeping"], "the model was loaded"
    assert "fim_layout" not in found
    assert client.get("/slots").get_json() == []
    (listed,) = client.get("/v1/models").get_json()["data"]
    assert listed["meta"]["n_ctx"] == 512
    assert listed["meta"]["n_params"] > 1_000_000
    assert listed["meta"]["n_embd"] > 0
    assert listed["meta"]["n_ctx_train"] >= 512
    assert 0 < listed["meta"]["size"] < demo_gguf.stat().st_size
    assert not pool.loaded


def test_model_in_the_query_selects_the_model() -> None:
    service, runner = make_service(FakeDecoder(n_seq=2))
    small = ModelInfo("small", 128, 260, 0, n_slots=1, chat_template="{{ messages }}")
    models = [PooledModel(m, 1, lambda: service) for m in (service.model, small)]
    client = create_app(ModelPool(models, memory=2)).test_client()
    for query, name, n_ctx in (
        ("", "fake", 256), ("?model=small&autoload=false", "small", 128), ("?model=nope", "fake", 256),
    ):  # fmt: skip
        found = client.get(f"/props{query}").get_json()
        assert found["model_alias"] == name
        assert found["default_generation_settings"]["n_ctx"] == n_ctx
        assert found["is_sleeping"]
    assert client.get("/props?model=small").get_json()["chat_template"] == "{{ messages }}"
    runner.close()


@contextmanager
def busy(n_seq: int) -> Iterator[FlaskClient]:
    """Run a server whose only request has generated 2 of its 9 tokens."""
    decoder = FakeDecoder(n_seq=n_seq, n_batch=64, gate=threading.Semaphore(2))
    service, runner = make_service(decoder)
    app = create_app(pool_of(service))
    runner.start()
    body = {"prompt": SECRET, "max_tokens": 9, "stream": True, "temperature": 0}
    response = app.test_client().post("/v1/completions", json=body)
    events = iter(response.response)
    try:
        next(events)
        next(events)
        yield app.test_client()
    finally:
        decoder.open_gate()
        response.close()
        runner.close()


def test_slots_show_progress_but_no_text() -> None:
    with busy(2) as client:
        response = client.get("/slots")
        running, free = response.get_json()
        assert (running["is_processing"], free["is_processing"]) == (True, False)
        assert running["n_ctx"] == free["n_ctx"] == 256
        n = len(SECRET)
        assert running["n_prompt_tokens_processed"] == n
        assert running["n_prompt_tokens_cache"] == 0
        assert running["n_prompt_tokens"] >= n
        (progress,) = running["next_token"]
        assert progress["n_decoded"] == 2
        assert progress["n_remain"] == 7
        assert set(free) == {"id", "n_ctx", "is_processing", "n_prompt_tokens"}
        assert not any(word in response.text for word in SECRET.split())
        assert client.get("/slots?fail_on_no_slot=1").status_code == 200


def test_load_balancer_gets_503_if_no_slot_is_free() -> None:
    with busy(1) as client:
        assert client.get("/slots").status_code == 200
        response = client.get("/slots?fail_on_no_slot=1")
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert response.get_json()["error"]["message"] == "no slot is free"


def test_slot_that_only_looks_ahead_counts_as_free() -> None:
    engine = Engine(FakeDecoder(), EngineOptions(random_seed=0, looks_ahead=True))
    engine.submit(0, GenerationRequest((1, 2, 3), 4, sampling=SamplingParams(temperature=0)))
    engine.step()
    (state,) = engine.metrics.slots()
    assert (state.request_id, state.n_decoded, state.n_left) == (0, 1, 3)
    while engine.has_work:
        engine.step()
    engine.look_ahead()
    engine.step()
    assert engine.metrics.running == 1
    (state,) = engine.metrics.slots()
    assert state.request_id is None
    assert state.n_held > 0


def test_tokens_of_a_text(client: FlaskClient) -> None:
    assert post(client, "/tokenize", content="hi") == {"tokens": [104, 105]}
    assert post(client, "/tokenize", content="") == {"tokens": []}
    assert post(client, "/tokenize", content="hi", add_special=True)["tokens"] == [104, 105]
    special = post(client, "/tokenize", content="<fim_prefix>")["tokens"]
    assert special == [FIM.prefix]
    plain = post(client, "/tokenize", content="<fim_prefix>", parse_special=False)["tokens"]
    assert plain == list(b"<fim_prefix>")


def test_special_token_is_added_if_prompts_begin_with_it(make_client: MakeClient) -> None:
    decoder = FakeDecoder()
    decoder.adds_bos = True
    client = make_client(decoder=decoder)
    assert post(client, "/tokenize", content="hi", add_special=True)["tokens"] == [EOG, 104, 105]
    assert post(client, "/tokenize", content="hi")["tokens"] == [104, 105]
    assert post(client, "/detokenize", tokens=[EOG, 104]) == {"content": "<end>h"}


def test_pieces_of_tokens(client: FlaskClient) -> None:
    found = post(client, "/tokenize", content="a<fim_prefix>é", with_pieces=True)["tokens"]
    assert found == [
        {"id": 97, "piece": "a"},
        {"id": FIM.prefix, "piece": "<fim_prefix>"},
        {"id": 0xC3, "piece": [0xC3]},
        {"id": 0xA9, "piece": [0xA9]},
    ]


def test_text_of_tokens(client: FlaskClient) -> None:
    for text in ("", "def é():\n\t<fim_suffix>x"):
        tokens = post(client, "/tokenize", content=text)["tokens"]
        assert post(client, "/detokenize", tokens=tokens) == {"content": text}
    assert post(client, "/detokenize", tokens=[0xC3]) == {"content": "�"}


def test_prompt_of_a_chat_is_returned_without_generating(client: FlaskClient) -> None:
    messages = [{"role": "user", "content": "well"}, {"role": "assistant", "content": "yes"}]
    extra = {"tools": [], "tool_choice": "auto", "model": "any"}
    assert post(client, "/apply-template", messages=messages, **extra) == {"prompt": "wellyes?"}
    assert 'turbopilot_tokens_total{kind="prompt",model="fake"} 0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("/tokenize", {}, "content", "you must specify content"),
        ("/tokenize", {"content": [1, "a"]}, "content", "must be a string"),
        (
            "/tokenize",
            {"content": "a" * (MAX_TEXT + 1)},
            "content",
            f"at most {MAX_TEXT} characters",
        ),
        ("/detokenize", {"tokens": [104, 260]}, "tokens", "must be below 260, not 260"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]", "at least 0"),
        (
            "/detokenize",
            {"tokens": [1] * (MAX_TOKENS + 1)},
            "tokens",
            f"a list of at most {MAX_TOKENS}",
        ),
        ("/apply-template", {"messages": []}, "messages", "a list of at least 1"),
        ("/apply-template", {"messages": [{"role": "tool"}]}, "messages[0].role", "'user'"),
    ],
)
def test_bad_request_is_refused(
    client: FlaskClient, path: str, body: object, param: str, said: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert len(response.text) < 400


def test_model_without_a_chat_template_is_refused(make_client: MakeClient) -> None:
    response = make_client().post("/apply-template", json=ROUTES["/v1/chat/completions"])
    assert response.status_code == 400
    assert "has no chat template" in response.get_json()["error"]["message"]


def test_tokenizer_of_an_unloaded_model_loads_it() -> None:
    service, runner = make_service(FakeDecoder())
    runner.start()
    pool = ModelPool([PooledModel(service.model, 1, lambda: service)], memory=1)
    client = create_app(pool).test_client()
    assert client.get("/slots").get_json() == []
    assert not pool.loaded
    assert post(client, "/tokenize", content="a") == {"tokens": [97]}
    assert pool.loaded == (service,)
    assert len(client.get("/slots").get_json()) == 1
    pool.drain()
    assert client.post("/tokenize", json={"content": "a"}).status_code == 503
    pool.close()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_embeddings_are_refused_in_openais_format(client: FlaskClient, path: str) -> None:
    response = client.post(path, json={"model": "m", "input": "x"})
    assert response.status_code == 501
    assert response.headers["X-Should-Retry"] == "false"
    error = response.get_json()["error"]
    assert error["message"].startswith("embeddings are not supported")
    assert (error["type"], error["code"]) == ("not_supported_error", "not_supported")


@pytest.mark.parametrize(
    "path", ["/props", "/slots", "/tokenize", "/detokenize", "/apply-template", "/v1/embeddings"]
)
def test_routes_need_the_key(path: str) -> None:
    method = "GET" if path in ("/props", "/slots") else "POST"
    with flask_client(SecurityOptions(api_keys=("a-key",))) as client:
        assert client.open(path, method=method, json={}).status_code == 401
        headers = {"Authorization": "Bearer a-key"}
        response = client.open(path, method=method, json={}, headers=headers)
        assert response.status_code != 401
        assert response.headers["X-Request-Id"]
