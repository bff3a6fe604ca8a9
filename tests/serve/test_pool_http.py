"""Several models over HTTP: model selection, health while loading, failed loads, metrics and the compute lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from serve.decoder import Logits
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.http.channel import WHEN_GONE
from serve.http.server import bind, run
from serve.models import ModelPool, PooledModel
from serve.models.completion import Completion
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.request import GenerationRequest, SamplingParams
from serve.runner import EngineRunner
from serve.runner.compute_lock import ComputeLock
from serve.settings import ServerOptions
from tests.support.fakes import FakeDecoder, script
from tests.support.pooled import Client
from tests.support.serving import ask, wait
from turbopilot.base.errors import CorruptModel, DecoderFailed, TurboPilotError

Load = Callable[[], CompletionService]


def says(name: str, text: str, turns: ComputeLock | None = None) -> Load:

    def load() -> CompletionService:
        decoder = FakeDecoder(script(text))
        engine = Engine(decoder, EngineOptions())
        return host(engine, name=name, compute_lock=turns)

    return load


def raises(error: Exception) -> Load:
    def load() -> CompletionService:
        raise error

    return load


def after(gate: threading.Event, load: Load) -> Load:
    def late() -> CompletionService:
        assert gate.wait(60)
        return load()

    return late


@contextmanager
def pool_of(memory: int = 100, **models: Load) -> Iterator[tuple[ModelPool, FlaskClient]]:
    """Yield a pool of models that take 60 bytes each, and a client."""
    pool = ModelPool(
        [PooledModel(ModelInfo(name, 256, 260, 1), 60, load) for name, load in models.items()],
        memory=memory,
    )
    try:
        yield pool, create_app(pool).test_client()
    finally:
        pool.close()


def complete(client: FlaskClient, model: str = "", **more: Any) -> Any:
    body = {"prompt": "well?", "model": model}
    return client.post("/v1/completions", json=body, **more)


def queue(client: FlaskClient, threads: ThreadPoolExecutor) -> tuple[Future[Any], Client]:
    """Request a completion in a thread while the model loads; return once the request waits."""
    waiting = Client()
    environ = {WHEN_GONE: waiting.when_gone}
    answer = threads.submit(complete, client, environ_overrides=environ)
    wait(waiting.waits)
    return answer, waiting


def test_model_name_selects_the_model_and_unknown_names_the_default() -> None:
    with pool_of(one=says("one", "yes"), two=says("two", "no"), memory=200) as (_, client):
        for asked, name, text in (
            ("two", "two", "no"), ("one", "one", "yes"), ("", "one", "yes"), ("gpt-4", "one", "yes"),
        ):  # fmt: skip
            body = complete(client, asked).get_json()
            assert body["choices"][0]["text"] == text
            assert body["model"] in (name, asked)
        answer = client.post("/v1/engines/two/completions", json={"prompt": "well?"}).get_json()
        assert answer["choices"][0]["text"] == "no"
        listed = client.get("/v1/models").get_json()["data"]
        assert [(m["id"], m["max_model_len"]) for m in listed] == [("one", 256), ("two", 256)]
        assert client.get("/v1/models/two").get_json()["root"] == "two"
        assert client.get("/v1/health").get_json()["model"] == "one"
        assert b"TurboPilot serves one" in client.get("/").get_data()


@pytest.mark.parametrize("path", ["org/one", "org%2Fone"])
def test_model_with_a_slash_in_its_name_is_found(path: str) -> None:
    models: Any = {"org/one": says("org/one", "yes")}
    with pool_of(**models) as (_, client):
        assert client.get(f"/v1/models/{path}").get_json()["id"] == "org/one"


def test_ollama_lists_only_loaded_models_as_running() -> None:
    with pool_of(one=says("one", "yes"), two=says("two", "no"), memory=200) as (_, client):
        assert client.get("/api/ps").get_json() == {"models": []}
        complete(client, "two")
        assert [m["name"] for m in client.get("/api/ps").get_json()["models"]] == ["two"]
        assert [m["name"] for m in client.get("/api/tags").get_json()["models"]] == ["one", "two"]


def test_open_stream_keeps_its_model_loaded() -> None:
    decoder = FakeDecoder(script("yes"), gate=threading.Semaphore(2))

    def slow() -> CompletionService:
        return host(Engine(decoder, EngineOptions()), name="one")

    with pool_of(one=slow, two=says("two", "no")) as (pool, client):
        response = client.post("/v1/completions", json={"prompt": "well?", "stream": True})
        refused = complete(client, "two")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "no room for two" in refused.get_json()["error"]["message"]
        decoder.open_gate()
        assert b"[DONE]" in response.get_data()
        while pool.statuses[0].running or pool.statuses[0].waiting:
            pass  # until the engine has counted the end of the request
        assert complete(client, "two").get_json()["choices"][0]["text"] == "no"
        assert [s.model.name for s in pool.loaded] == ["two"]


def test_health_reports_loading_while_completions_wait() -> None:
    gate = threading.Event()
    with (
        pool_of(one=after(gate, says("one", "yes"))) as (pool, client),
        ThreadPoolExecutor() as threads,
    ):
        done = threading.Semaphore(0)
        pool.preload(lambda _: done.release())
        health = client.get("/health")
        assert health.status_code == 503
        assert health.get_json()["status"] == "loading"
        assert client.get("/v1/models").status_code == 200
        waiting = Client()
        environ = {WHEN_GONE: waiting.when_gone}
        answer = threads.submit(complete, client, environ_overrides=environ)
        wait(waiting.waits)
        assert client.get("/health").get_json()["waiting"] == 1
        gate.set()
        wait(done)
        assert answer.result(60).get_json()["choices"][0]["text"] == "yes"
        health = client.get("/health")
        assert (health.status_code, health.get_json()["status"]) == (200, "ok")


def test_client_that_disconnects_during_a_load_is_not_counted_as_waiting() -> None:
    gate = threading.Event()
    with (
        pool_of(one=after(gate, says("one", "yes"))) as (pool, client),
        ThreadPoolExecutor() as threads,
    ):
        pool.preload(lambda _: None)
        waiting = Client()
        environ = {WHEN_GONE: waiting.when_gone}
        answer = threads.submit(complete, client, environ_overrides=environ)
        wait(waiting.waits)
        waiting.leave()
        assert answer.result(60).status_code == 499
        assert client.get("/health").get_json()["waiting"] == 0
        gate.set()


def test_failed_load_returns_500_and_health_shows_the_reason() -> None:
    error = CorruptModel("two.gguf: cut off")
    with pool_of(one=says("one", "yes"), two=raises(error), memory=200) as (_, client):
        response = complete(client, "two")
        assert response.status_code == 500
        assert response.get_json()["error"]["message"] == "two.gguf: cut off"
        assert complete(client).status_code == 200
        health = client.get("/health")
        assert (health.status_code, health.get_json()["status"]) == (200, "ok")
        one, two = health.get_json()["models"]
        assert one == {"name": "one", "status": "ok", "running": 0, "waiting": 0}
        assert (two["status"], two["reason"]) == ("failed", "two.gguf: cut off")


def test_health_status_is_that_of_the_default_model() -> None:
    with pool_of(one=raises(CorruptModel("bad")), two=says("two", "no"), memory=200) as (_, client):
        assert client.get("/health").status_code == 200  # a request would load it
        assert complete(client).status_code == 500
        health = client.get("/health")
        assert health.status_code == 503
        assert health.get_json()["reason"] == "bad"


def test_health_reports_draining_and_completions_return_503() -> None:
    with pool_of(one=says("one", "yes")) as (pool, client):
        pool.drain()
        health = client.get("/health")
        assert (health.status_code, health.get_json()["status"]) == (503, "draining")
        assert complete(client).status_code == 503


def test_engine_that_fails_to_warm_up_is_freed() -> None:
    freed = []
    decoder = FakeDecoder()
    decoder.warm_up = raises(RuntimeError("no"))  # type: ignore[method-assign, assignment]
    with pytest.raises(DecoderFailed, match="the engine failed: no"):
        host(Engine(decoder), free=lambda: freed.append(1))
    assert freed == [1]


def test_metrics_are_labelled_by_model() -> None:
    with pool_of(one=says("one", "yes"), two=says("two", "no"), memory=200) as (_, client):
        complete(client)
        text = client.get("/metrics").get_data(as_text=True)
        found = {
            (s.name, *sorted(s.labels.values())): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }
        assert found["turbopilot_requests_total", "one", "stop"] == 1
        assert found["turbopilot_tokens_total", "generated", "one"] >= 3
        assert found["turbopilot_model_loaded", "one"] == 1
        assert found["turbopilot_model_loaded", "two"] == 0
        assert found["turbopilot_model_loads_total", "one"] == 1
        assert ("turbopilot_requests_total", "stop", "two") not in found
        complete(client, "two")
        text = client.get("/metrics").get_data(as_text=True)
        assert 'turbopilot_requests_total{model="two",reason="stop"} 1' in text
        assert 'turbopilot_first_token_seconds_count{model="two"} 1' in text
        assert text.count("# TYPE turbopilot_requests_total counter") == 1


def test_default_model_that_cannot_be_loaded_ends_the_server() -> None:
    """Waiting requests get the error first."""
    gate = threading.Event()
    load = after(gate, raises(CorruptModel("bad")))
    pool = ModelPool([PooledModel(ModelInfo("one", 256, 260, 1), 1, load)], memory=1)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    said: list[str] = []
    with ThreadPoolExecutor() as threads:
        served = threads.submit(run, pool, listener, ServerOptions(Path("none")), said.append)
        answer = threads.submit(ask, port, "POST", "/v1/completions", {"prompt": "x"})
        while not pool.statuses[0].waiting:
            pass
        gate.set()
        with pytest.raises(CorruptModel, match="bad"):
            served.result(60)
        status, _, body = answer.result(60)
    assert (status, b"bad" in body) == (500, True)
    assert said == []


class WatchedDecoder(FakeDecoder):
    is_computing = False

    def decode(self, batch: Any) -> Logits:
        self.is_computing = True
        try:
            return super().decode(batch)
        finally:
            self.is_computing = False


def test_two_models_never_compute_at_once() -> None:
    turns = ComputeLock()
    slow = WatchedDecoder(script("yes"), gate=threading.Semaphore(0))
    other = WatchedDecoder(script("no"))
    overlaps: list[bool] = []

    def look(_: object) -> TurboPilotError | None:
        overlaps.append(slow.is_computing and other.is_computing)
        return None

    slow._fail = other._fail = look
    one, two = (host(Engine(d), compute_lock=turns) for d in (slow, other))
    with ThreadPoolExecutor() as threads:
        first = threads.submit(lambda: one.start(Completion(("well?",), 9)).collect())
        while not slow.is_computing:
            pass
        second = threads.submit(lambda: two.start(Completion(("well?",), 9)).collect())
        while not turns._waiting:
            pass
        assert other.batches == []
        slow.open_gate()
        assert second.result(60).choices[0].text == "no"
        assert first.result(60).choices[0].text == "yes"
    one.close()
    two.close()
    assert len(overlaps) > 5
    assert not any(overlaps)
    assert not turns.is_taken


def test_compute_lock_is_first_come_first_served() -> None:
    turns = ComputeLock()
    order: list[int] = []

    def take(i: int) -> None:
        with turns.turn():
            order.append(i)

    with ThreadPoolExecutor() as threads, turns.turn():
        for i in range(4):
            threads.submit(take, i)
            while len(turns._waiting) <= i:
                pass
    assert order == [0, 1, 2, 3]


def test_exception_releases_the_compute_lock() -> None:
    turns = ComputeLock()
    with pytest.raises(ValueError, match="x"), turns.turn():
        raise ValueError("x")
    assert not turns.is_taken


def test_engine_does_not_look_ahead_while_another_model_computes() -> None:
    turns = ComputeLock()
    engine = Engine(FakeDecoder(n_batch=64), EngineOptions(looks_ahead=True))
    mine = EngineRunner(engine, compute_lock=turns)
    greedy = SamplingParams(temperature=0)
    engine.submit(0, GenerationRequest(tuple(b"import os"), 6, sampling=greedy))
    while engine.has_work:
        engine.step()
    found = [mine.can_look_ahead]
    with turns.turn():
        found.append(mine.can_look_ahead)
    found.append(mine.can_look_ahead)
    assert found == [True, False, True]
