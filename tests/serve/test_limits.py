"""Request fields that reach the engine, server-wide limits, sessions, deadlines, the queue, and metrics."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from serve.api.body import read_json
from serve.api.completions import CompletionRequest
from serve.api.dialect import Dialect
from serve.api.hugging_face import HuggingFaceRequest
from serve.api.ollama import OllamaRequest
from serve.models.completion import Completion
from serve.options import options_of
from serve.request import GenerationRequest, SamplingParams
from serve.runner.generation import ClientGone
from serve.settings import Defaults, Limits, ModelOptions
from tests.support.fakes import EOG, N_VOCAB, FakeDecoder, script
from tests.support.serving import (
    ask,
    connection,
    flask_client,
    make_service,
    read_all,
    running,
    send,
    wait,
)
from turbopilot.base.errors import InvalidInput, InvalidRequest

PARALLEL = next(o for o in options_of(ModelOptions) if o.field == "n_seq")


def asked(decoder: FakeDecoder, completion: Completion, limits: Limits) -> list[GenerationRequest]:
    """Return the requests that a completion submits to the engine; nothing is computed."""
    service, runner = make_service(decoder, limits=limits)
    service.start(completion)
    return runner.seen


def parsed(dialect: type[Dialect], **fields: object) -> Completion:
    body = read_json(json.dumps({dialect.key: "x", **fields}).encode())
    return dialect.read(body).completion(Defaults())


SAMPLING: list[tuple[dict[str, object], dict[str, object]]] = [
    ({"min_p": 0.1}, {"min_p": 0.1}),
    ({"repeat_last_n": -1, "repeat_penalty": 1.5}, {"repeat_last_n": -1, "repeat_penalty": 1.5}),
    ({"repetition_penalty": 1.5}, {"repeat_penalty": 1.5}),
    ({"frequency_penalty": 1, "presence_penalty": -1},
     {"frequency_penalty": 1.0, "presence_penalty": -1.0}),
    ({"typical_p": 0.5, "mirostat": 2, "mirostat_tau": "x", "grammar": 5}, {}),  # unknown fields
    ({"samplers": ["top_k", "top_p", "infill"]}, {"infill": True}),
    ({"samplers": "kpt"}, {}),
    ({"response_format": {"type": "text"}, "json_schema": None}, {}),
    (dict.fromkeys(("min_p", "samplers", "repeat_last_n", "response_format")), {}),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "wanted"), SAMPLING)
def test_sampling_fields_work_in_all_dialects(
    fields: dict[str, object], wanted: dict[str, Any]
) -> None:
    d = Defaults()
    expected = replace(SamplingParams(temperature=d.temperature, top_p=d.top_p), **wanted)
    assert parsed(CompletionRequest, **fields).sampling == expected
    assert parsed(HuggingFaceRequest, parameters=fields).sampling == expected
    assert parsed(OllamaRequest, options=fields).sampling == expected


BAD: list[tuple[dict[str, object], str]] = [
    ({"min_p": 2}, "min_p"), ({"repeat_last_n": -2}, "repeat_last_n"), ({"json_schema": "x"}, "json_schema"),
    ({"json_schema": {}, "response_format": {"type": "json_object"}}, "json_schema"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"logit_bias": 5}, "logit_bias"), ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"), ({"logit_bias": {"5": "x"}}, "logit_bias"),
    ({"logit_bias": [[5]]}, "logit_bias"), ({"logit_bias": [5, 1]}, "logit_bias"),
    ({"logit_bias": [[None, 1]]}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"), ({"logprobs": 21}, "logprobs"),
    ({"logprobs": "x"}, "logprobs"), ({"n_indent": -1}, "n_indent"), ({"single_line": 1}, "single_line"),
    ({"t_max_predict_ms": -1}, "t_max_predict_ms"), ({"deadline_ms": "soon"}, "deadline_ms"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_error_names_the_invalid_field(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(CompletionRequest, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("dialect", "body", "schema"),
    [
        (CompletionRequest, {"response_format": {"type": "json_object"}}, {"type": "object"}),
        (CompletionRequest, {"response_format": {"type": "json_object", "schema": {"a": 1}}}, {"a": 1}),
        (
            CompletionRequest,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            {"a": 1},
        ),
        (CompletionRequest, {"json_schema": {"a": 1}}, {"a": 1}),
        (OllamaRequest, {"format": "json"}, {"type": "object"}),
        (OllamaRequest, {"format": {"a": 1}}, {"a": 1}),
        (HuggingFaceRequest, {"parameters": {"json_schema": {"a": 1}}}, {"a": 1}),
    ],
)  # fmt: skip
def test_schema_is_found_in_every_dialect(
    dialect: type[Dialect], body: dict[str, object], schema: dict[str, object]
) -> None:
    found = json.loads(parsed(dialect, **body).sampling.schema)
    assert found.pop("x-guidance")["lenient"]
    assert found == schema


@pytest.mark.parametrize("form", [7, True, ["json"], "xml"])
def test_invalid_ollama_format_is_refused(form: object) -> None:
    with pytest.raises(InvalidRequest, match="format must be"):
        parsed(OllamaRequest, format=form)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"97": -100, "98": 5.5}, {97: -100.0, 98: 5.5}), ({"ab": 1}, {97: 1.0, 98: 1.0}),
        ([[97, False], ["b", -1]], {97: -math.inf, 98: -1.0}), ([["<fim_prefix>", False]], {257: -math.inf}),
        ({str(N_VOCAB): 1, "-1": 1, "9" * 30: 1}, {45: 1.0, 49: 1.0, 57: 1.0}), ([[-1, 1], [10**12, 1]], {}),
        ([["\ud800", 1]], {63: 1.0}), (None, {}), ({}, {}),
    ],
)  # fmt: skip
def test_logit_bias_accepts_ids_and_texts(given: object, wanted: dict[int, float]) -> None:
    completion = parsed(CompletionRequest, logit_bias=given)
    (request,) = asked(FakeDecoder(), completion, Limits())
    assert dict(request.sampling.logit_bias) == wanted


def test_stop_rules_and_deadlines_reach_the_engine() -> None:
    fields: dict[str, object] = {
        "suffix": "after", "stop": ["a", "b"], "single_line": True, "n_indent": 4, "t_max_predict_ms": 250,
        "deadline_ms": 1500, "logprobs": 3,
    }  # fmt: skip
    completion = parsed(CompletionRequest, **fields)
    (request,) = asked(FakeDecoder(), completion, Limits())
    assert request.stop.strings == ("a", "b")
    assert (request.stop.single_line, request.stop.n_indent) == (True, 4)
    assert request.stop.follows == "after"
    assert (request.predict_time, request.deadline, request.n_logprobs) == (0.25, 1.5, 3)


@pytest.mark.parametrize("logprobs", [None, False])
def test_logprobs_null_or_false_is_off(logprobs: object) -> None:
    assert parsed(CompletionRequest, logprobs=logprobs).n_logprobs is None


def test_suffix_outside_the_prompt_is_used_for_drafts() -> None:
    (request,) = asked(FakeDecoder(), Completion(("x",), 5, suffix="ab"), Limits())
    assert request.context == ()
    (request,) = asked(FakeDecoder(fim=None), Completion(("x",), 5, suffix="ab"), Limits())
    assert request.context == (97, 98)
    long = Completion(("x",), 5, suffix="a" * 100_000)
    (request,) = asked(FakeDecoder(fim=None), long, Limits())
    assert len(request.context) == 256


def test_server_limits_override_the_request() -> None:
    limits = Limits(max_tokens=10, max_prompt=20, deadline=7.0)
    completion = Completion(("x" * 100,), 50, deadline=60.0)
    (request,) = asked(FakeDecoder(), completion, limits)
    assert (len(request.prompt), request.max_tokens, request.deadline) == (20, 10, 7.0)
    (request,) = asked(FakeDecoder(), replace(completion, deadline=3.0, max_tokens=0), limits)
    assert (len(request.prompt), request.max_tokens, request.deadline) == (20, 0, 3.0)
    (request,) = asked(FakeDecoder(), completion, Limits(deadline=None))
    assert (len(request.prompt), request.max_tokens, request.deadline) == (100, 50, 60.0)
    service, _ = make_service(FakeDecoder(), limits=limits)
    assert service.start(completion).truncated == ("prompt", "max_tokens")


def test_truncated_fim_prompt_keeps_its_special_tokens() -> None:
    completion = Completion(("x" * 100,), 5, suffix="y" * 100)
    (request,) = asked(FakeDecoder(), completion, Limits(max_prompt=16))
    assert len(request.prompt) == 16
    assert [t for t in request.prompt if t > EOG] == [257, 258, 259]
    assert {ord("x"), ord("y")} <= set(request.prompt)


def test_completion_is_cut_to_max_tokens() -> None:
    with flask_client(decoder=FakeDecoder(), limits=Limits(max_tokens=3)) as client:
        response = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 50})
        assert len(response.get_json()["choices"][0]["text"]) == 3
        assert response.headers["X-TurboPilot-Truncated"] == "max_tokens"


def test_passed_deadline_returns_504_without_retry() -> None:
    hours = itertools.count(0.0, 3600.0)
    with flask_client(decoder=FakeDecoder(), clock=lambda: next(hours)) as client:
        for headers in ({}, {"X-TurboPilot-Deadline-Ms": "50"}):
            response = client.post("/v1/completions", json={"prompt": "x"}, headers=headers)
            assert response.status_code == 504
            assert response.get_json()["error"]["code"] == "deadline_exceeded"
            assert response.headers["X-Should-Retry"] == "false"


def session(name: str, key: str = "") -> dict[str, str]:
    return {"X-TurboPilot-Session": name, "Authorization": f"Bearer {key}"}


def test_new_request_supersedes_earlier_one_of_its_session() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_seq=4, n_batch=64)
    with running(decoder) as r, ThreadPoolExecutor() as pool:

        def post(headers: dict[str, str], **fields: object) -> Any:
            body = {"prompt": "x", "max_tokens": 3, **fields}
            found = pool.submit(ask, r.port, "POST", "/v1/completions", body, headers)
            wait(r.runner.submitted)
            return found

        old = post(session("a"), n=2)
        stranger, other = post(session("a", "key")), post(session("b"))
        new = post(session("a"))
        decoder.let(1)
        status, _, data = old.result()
        assert status == 499  # clients do not retry this status
        assert json.loads(data)["error"]["code"] == "superseded"
        decoder.open_gate()
        for kept in (stranger, other, new):
            assert kept.result()[0] == 200


def test_superseded_stream_ends_with_reason_cancelled() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(1), n_seq=4, n_batch=64)
    with running(decoder) as r, ThreadPoolExecutor() as pool, connection(r.port) as s:
        older: dict[str, object] = {"prompt": "x", "max_tokens": 200, "stream": True}
        send(s, older, headers="X-TurboPilot-Session: a\r\nConnection: close\r\n")
        assert b"200 OK" in s.recv(65536)
        newer, name = {"prompt": "y", "max_tokens": 2}, {"X-TurboPilot-Session": "a"}
        new = pool.submit(ask, r.port, "POST", "/v1/completions", newer, name)
        wait(r.runner.submitted)
        wait(r.runner.submitted)
        decoder.open_gate()
        data = read_all(s)
        assert b'"finish_reason":"cancelled"' in data
        assert b"[DONE]" in data
        assert b"error" not in data
        assert new.result()[0] == 200


def test_disconnect_before_the_first_event_cancels_the_request() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    service, runner = make_service(decoder)
    runner.start()

    def at_once(callback: Callable[[], None]) -> Callable[[], None]:
        callback()
        return lambda: None

    with pytest.raises(ClientGone):
        service.start(Completion(("x",), 5)).collect(at_once)
    decoder.open_gate()
    assert service.start(Completion(("x",), 5)).collect().choices
    runner.close()
    assert runner.n_open == 0


def samples(client: FlaskClient) -> dict[tuple[str, str], float]:
    """Return the values in `/metrics` by name and label; the label `model` is omitted."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.content_type.startswith("text/plain")
    families = text_string_to_metric_families(response.get_data(as_text=True))
    return {
        (s.name, next((v for k, v in s.labels.items() if k != "model"), "")): s.value
        for family in families
        for s in family.samples
    }


def test_metrics_count_a_request() -> None:
    with flask_client(decoder=FakeDecoder(script("yes"))) as client:
        before = samples(client)
        assert before["turbopilot_requests_total", "stop"] == 0
        client.post("/v1/completions", json={"prompt": "well?"})
        after = samples(client)
    assert after["turbopilot_requests_total", "stop"] == 1
    assert after["turbopilot_requests_running", ""] == 0
    assert after["turbopilot_requests_waiting", ""] == 0
    assert after["turbopilot_tokens_total", "generated"] >= 3
    for kind in ("prompt", "cached", "restored", "known", "drafted", "accepted"):
        assert ("turbopilot_tokens_total", kind) in after
    assert after["turbopilot_first_token_seconds_bucket", "+Inf"] >= 1
    assert after["turbopilot_first_token_seconds_count", ""] >= 1
    for name in ("queue_seconds_count", "token_seconds_sum", "kv_cells", "kv_cells_used"):
        assert (f"turbopilot_{name}", "") in after
    assert after["turbopilot_refused_total", ""] == 0
    assert any(name == "turbopilot_server_info" for name, _ in after)


def test_health_and_metrics_count_waiting_requests() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with running(decoder) as r, ThreadPoolExecutor() as pool:
        body = {"prompt": "x", "max_tokens": 2, "n": 3}
        answer = pool.submit(ask, r.port, "POST", "/v1/completions", body)
        wait(r.runner.submitted)
        status, _, data = ask(r.port, "GET", "/health")
        health = json.loads(data)
        assert (status, health["status"]) == (200, "ok")
        assert health["running"] + health["waiting"] == 3
        assert b"turbopilot_requests_waiting" in ask(r.port, "GET", "/metrics")[2]
        decoder.open_gate()
        assert answer.result()[0] == 200


def test_full_queue_returns_retry_after_on_every_route() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with running(decoder, max_open=2) as r, ThreadPoolExecutor() as pool:
        body: dict[str, object] = {"prompt": "x", "max_tokens": 2, "n": 2}
        first = pool.submit(ask, r.port, "POST", "/v1/completions", body)
        wait(r.runner.submitted)
        for path, more in (
            ("/v1/completions", {"prompt": "x"}), ("/v1/completions", {"prompt": "x", "stream": True}),
            ("/api/generate", {"inputs": "x"}), ("/api/generate", {"prompt": "x"}),
        ):  # fmt: skip
            status, headers, data = ask(r.port, "POST", path, more)
            assert status == 503
            assert int(headers["Retry-After"]) >= 1
            assert b"waiting or running" in data
        assert b'turbopilot_refused_total{model="fake"} 4' in ask(r.port, "GET", "/metrics")[2]
        decoder.open_gate()
        assert first.result()[0] == 200


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "257", "9" * 5000, "²"])
def test_invalid_parallel_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--parallel"):
        PARALLEL.value(text)


def test_parallel_accepts_a_number_or_auto() -> None:
    assert PARALLEL.value("8") == 8
    assert PARALLEL.value("Auto") is None
