"""Routes of llama.cpp, chat, Mistral's fill-in-the-middle and Tabby, through Flask's client with a fake model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient

from serve.http.app import create_app
from tests.support.fakes import FIM, FakeDecoder, script
from tests.support.serving import WatchedRunner, make_service, pool_of

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]?{% endif %}"
)
Made = tuple[FlaskClient, WatchedRunner]


@pytest.fixture
def make() -> Iterator[Callable[..., Made]]:
    with ExitStack() as stack:

        def make(decoder: FakeDecoder, **attributes: object) -> Made:
            for name, value in attributes.items():
                setattr(decoder, name, value)
            service, runner = make_service(decoder)
            runner.start()
            stack.callback(runner.close)
            return create_app(pool_of(service)).test_client(), runner

        yield make


@pytest.fixture
def made(make: Callable[..., Made]) -> Made:
    return make(FakeDecoder(script("yes\nno"), n_batch=64), chat_template=TEMPLATE)


def post(client: FlaskClient, path: str, **body: object) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json


def stream(client: FlaskClient, path: str, **body: object) -> tuple[list[Any], bytes]:
    response = client.post(path, json={"stream": True, **body})
    assert response.mimetype == "text/event-stream"
    data = response.get_data()
    lines = [e.removeprefix(b"data: ") for e in data.split(b"\n\n") if e]
    return [json.loads(x) for x in lines if x != b"[DONE]"], data


def test_llama_cpp_completion_has_counts_and_timings(made: Made) -> None:
    answer = post(made[0], "/completion", prompt="well?", n_predict=20)
    assert answer["content"] == "yes\nno"
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "eos", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (6, 5)
    assert answer["truncated"] is False
    timings = answer["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == 5
    assert timings["predicted_n"] == 6
    assert timings["predicted_ms"] >= 0


@pytest.mark.parametrize(
    ("body", "stop_type", "word"),
    [
        ({"stop": ["\n"]}, "word", "\n"),
        ({"n_predict": 2}, "limit", ""),
        ({"n_predict": -1}, "eos", ""),
    ],
)
def test_llama_cpp_reports_the_stop_type(
    made: Made, body: dict[str, Any], stop_type: str, word: str
) -> None:
    answer = post(made[0], "/completion", prompt="well?", **body)
    assert (answer["stop_type"], answer["stopping_word"]) == (stop_type, word)


def test_llama_cpp_stream_has_no_done_event(made: Made) -> None:
    chunks, data = stream(made[0], "/completion", prompt="well?", n_predict=20)
    assert "".join(c["content"] for c in chunks) == "yes\nno"
    assert [c["stop"] for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert b"[DONE]" not in data
    assert b'"content":"' in data  # llama.vim searches for exactly these bytes


def test_several_completions_are_returned_as_a_list(made: Made) -> None:
    answers = post(made[0], "/infill", input_prefix="a?", input_suffix="", n_cmpl=3, n_predict=4)
    assert [a["index"] for a in answers] == [0, 1, 2]
    assert isinstance(post(made[0], "/infill", input_prefix="a?", n_cmpl=1), dict)


def test_response_fields_select_fields(made: Made) -> None:
    fields = ["content", "timings/prompt_n", "truncated", "no/such", "timings/no"]
    answer = post(made[0], "/completion", prompt="well?", n_predict=3, response_fields=fields)
    assert set(answer) == {"content", "timings/prompt_n", "truncated"}


def test_infill_prompt_is_framed(made: Made) -> None:
    client, runner = made
    body = {"input_prefix": "a\n", "prompt": "  b", "input_suffix": "\nc", "n_predict": 2}
    post(client, "/infill", **body)
    sent = runner.seen[-1]
    assert sent.prompt == (FIM.prefix, *b"a\n  b", FIM.suffix, *b"\nc", FIM.middle)
    assert sent.stop.follows == "\nc"


def test_infill_with_empty_suffix_is_framed(made: Made) -> None:
    client, runner = made
    post(client, "/infill", input_prefix="a", input_suffix="", n_predict=2)
    assert runner.seen[-1].prompt == (FIM.prefix, *b"a", FIM.suffix, FIM.middle)


def test_other_files_come_before_the_prefix(made: Made) -> None:
    client, runner = made
    files = [{"filename": "x.py", "text": "x = 1\n", "time": 7}, {"text": "y"}, {"text": ""}]
    post(client, "/infill", input_prefix="a", input_suffix="b", input_extra=files, n_predict=2)
    start = b"# x.py\nx = 1\n\n# code\ny\n\n"
    assert runner.seen[-1].prompt[: len(start)] == tuple(start)
    assert runner.seen[-1].prompt[len(start) :][0] == FIM.prefix


def test_zero_tokens_only_caches_the_prompt(made: Made) -> None:
    client, runner = made
    answer = post(client, "/infill", input_prefix="", input_suffix="", prompt="", n_predict=0)
    assert answer["content"] == ""
    assert runner.seen[-1].max_tokens == 0


def test_prompt_framed_by_twinny_is_recognized(made: Made) -> None:
    client, runner = made
    framed = "<fim_prefix>a<fim_suffix>b<fim_middle>"
    post(client, "/infill", prompt=framed, max_tokens=3)
    assert runner.seen[-1].prompt == (FIM.prefix, *b"a", FIM.suffix, *b"b", FIM.middle)
    assert runner.seen[-1].max_tokens == 3


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/infill", {}, "input_prefix"),
        ("/infill", {"input_prefix": 1}, "input_prefix"),
        ("/infill", {"input_prefix": "a", "input_extra": "x"}, "input_extra"),
        ("/infill", {"input_prefix": "a", "input_extra": [{"text": 1}]}, "input_extra[0].text"),
        ("/infill", {"input_prefix": "a", "n_cmpl": 0}, "n_cmpl"),
        ("/completion", {}, "prompt"),
        ("/completion", {"prompt": "a", "response_fields": 3}, "response_fields"),
        ("/v1/fim/completions", {"suffix": "a"}, "prompt"),
        ("/v1/chat/completions", {}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "dog"}]}, "messages[0].role"),
    ],
)
def test_error_names_the_invalid_field(made: Made, path: str, body: object, param: str) -> None:
    response = made[0].post(path, json=body)
    assert response.status_code == 400
    assert response.json
    assert response.json["error"]["param"] == param


def test_chat_messages_use_the_template(made: Made) -> None:
    client, runner = made
    messages = [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "we"}, {"type": "text", "text": "ll"}],
        },
    ]
    answer = post(client, "/v1/chat/completions", messages=messages, max_completion_tokens=20)
    assert bytes(runner.seen[-1].prompt) == b"[system]be brief<end>[user]well<end>[assistant]?"
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "yes\nno"}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 6


def test_chat_stream_has_role_text_and_usage(made: Made) -> None:
    body = {"messages": [{"role": "user", "content": "well"}], "n": 2}
    chunks, data = stream(
        made[0], "/v1/chat/completions", stream_options={"include_usage": True}, **body
    )
    assert data.endswith(b"data: [DONE]\n\n")
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert len({(c["id"], c["created"]) for c in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks.pop()["usage"]["completion_tokens"] == 12
    for index in (0, 1):
        mine = [x for c in chunks for x in c["choices"] if x["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(x["delta"].get("content", "") for x in mine) == "yes\nno"
        assert [x["finish_reason"] for x in mine] == [None] * (len(mine) - 1) + ["stop"]


def test_chat_returns_log_probabilities(made: Made) -> None:
    body = {"messages": [{"role": "user", "content": "well"}], "logprobs": True, "top_logprobs": 2}
    (choice,) = post(made[0], "/v1/chat/completions", **body)["choices"]
    told = choice["logprobs"]["content"]
    assert "".join(t["token"] for t in told) == choice["message"]["content"]
    assert all(len(t["top_logprobs"]) == 2 and "id" not in t for t in told)


def test_invalid_or_rejecting_template_returns_400(make: Callable[..., Made]) -> None:
    for template, said in (
        ("{{ raise_exception('one system message only') }}", "one system message only"),
        ("{% for %}", "invalid"),
        ("{{ ''.__class__.__mro__ }}", "rejects"),
        ("{{ messages.append(1) }}", "rejects"),
        ("{{ 1 / 0 }}", "rejects"),
    ):
        client, _ = make(FakeDecoder(), chat_template=template)
        body = {"messages": [{"role": "user", "content": "x"}]}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert said in response.text


def test_chat_without_a_template_returns_400(make: Callable[..., Made]) -> None:
    client, _ = make(FakeDecoder())
    response = client.post("/v1/chat/completions", json={"messages": [{"role": "user"}]})
    assert response.status_code == 400
    assert "/v1/completions" in response.text


def test_mistral_fim_returns_a_chat_completion(made: Made) -> None:
    client, runner = made
    body = {"prompt": "a", "suffix": "b", "max_tokens": 3, "random_seed": 5}
    answer = post(client, "/v1/fim/completions", **body)
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert runner.seen[-1].prompt == (FIM.prefix, *b"a", FIM.suffix, *b"b", FIM.middle)
    assert runner.seen[-1].sampling.seed == 5
    chunks, _ = stream(client, "/v1/fim/completions", **body)
    assert all("delta" in c["choices"][0] for c in chunks)


def test_tabby_agent_routes_respond(made: Made) -> None:
    client, runner = made
    assert client.get("/v1/health").json["model"] == "fake"  # type: ignore[index]
    assert client.post("/v1/events", json={"type": "view"}).status_code == 200
    segments = {"prefix": "well?", "suffix": "", "filepath": "a.py"}
    answer = post(client, "/v1/completions", language="python", segments=segments)
    assert answer["choices"][0]["text"] == "yes\nno"
    assert bytes(runner.seen[-1].prompt) == b"well?"
