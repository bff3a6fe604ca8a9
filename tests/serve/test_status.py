"""Routes for operators: `/status` and its stream, loading and unloading, clients' reports, and who may read them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from serve.api.dialect import SSE
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.http.channel import STUCK_SECONDS
from serve.http.server import HttpServer, bind
from serve.models import ModelPool, PooledModel
from serve.models.completion import Completion
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.settings import SecurityOptions
from serve.shown_options import ShownOption
from serve.status.feed import LINGER, MOST_VIEWERS, RETRY_SECONDS, StatusFeed
from tests.serve.test_slow import Clock
from tests.support.fakes import FakeDecoder, TalkingDecoder, script
from tests.support.pooled import Lab, info
from tests.support.serving import MakeClient, ask, connection, make_service, running, send, wait
from turbopilot.base.errors import CorruptModel, InvalidRequest, Overloaded, UnknownModel

SECRET = "def s3cret(): return"


def status_of(client: FlaskClient) -> Any:
    response = client.get("/status")
    assert response.status_code == 200
    return response.get_json()


def status_at(port: int) -> Any:
    return json.loads(ask(port, "GET", "/status")[2])


def ended(port: int, n: int = 1) -> list[Any]:
    """Wait until `n` requests have been recorded, and return them."""
    while len(found := status_at(port)["requests"]) < n:
        pass
    return list(found)


class Stream:
    """Viewer of the stream over HTTP."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", "/status/stream")
        self.response = self._connection.getresponse()

    def event(self) -> Any:
        """Return the next event; None at the end."""
        line = self.response.readline()
        if not line:
            return None
        assert line.startswith(b"data: ")
        assert self.response.readline() == b"\n"
        return json.loads(line[6:])

    def close(self) -> None:
        self.response.close()
        self._connection.close()


@contextmanager
def viewing(port: int) -> Iterator[Stream]:
    stream = Stream(port)
    try:
        yield stream
    finally:
        stream.close()


def test_status_shows_models_machine_and_finished_requests(make_client: MakeClient) -> None:
    client = make_client()
    body = {"prompt": f"{SECRET}?", "max_tokens": 3}
    headers = {
        "User-Agent": "llama.vim/1 (x)",
        "X-Request-Id": "mine",
        "X-TurboPilot-Priority": "low",
    }
    client.post("/v1/completions", json=body, headers=headers).close()
    found = status_of(client)
    (model,) = found["models"]
    assert (model["name"], model["status"], found["default_model"]) == ("fake", "ok", "fake")
    assert [s["held"] > 0 for s in model["slots"]] == [True]
    assert 0 < found["machine"]["memory_free"] <= found["machine"]["memory_total"]
    (request,) = found["requests"]
    assert (request["id"], request["route"], request["client"]) == (
        "mine",
        "/v1/completions",
        "llama.vim",
    )
    assert (request["model"], request["status"], request["reason"]) == ("fake", 200, "length")
    assert (request["prompt_tokens"], request["completion_tokens"]) == (len(SECRET) + 1, 3)
    assert request["is_low"]
    parts = sum(request[p] for p in ("load", "queue", "prefill", "decode", "other"))
    assert parts == pytest.approx(request["total"], abs=0.01)
    assert not found["needs_key"]


def test_status_has_no_text_of_requests(make_client: MakeClient) -> None:
    client = make_client(decoder=FakeDecoder(script("well-hidden")))
    body = {"prompt": f"{SECRET}?", "suffix": "s3cret", "stop": ["s3cret"], "user": "s3cret"}
    for more in ({}, {"stream": True}, {"max_tokens": -5}, {"n": 2}):
        client.post("/v1/completions?s3cret=1", json={**body, **more}).close()
    client.post("/v1/engines/codegen/completions", json=body).close()
    data = client.get("/status").get_data()
    assert data.count(b'"route"') == 5
    assert b"s3cret" not in data
    assert b"hidden" not in data


def test_refused_requests_are_shown_but_not_those_of_strangers(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(api_keys=("k",)))
    key = {"Authorization": "Bearer k"}
    client.post("/v1/completions", json={"prompt": "x"}).close()
    client.post(
        "/v1/completions", json={"prompt": "x"}, headers={**key, "Origin": "http://a.b"}
    ).close()
    client.post("/v1/completions", json={"prompt": 5}, headers=key).close()
    found = client.get("/status", headers=key).get_json()
    assert [(r["status"], r["reason"], r["why"]) for r in found["requests"]] == [
        (400, "refused", "")
    ]
    assert found["needs_key"]


@pytest.mark.parametrize("stream", [False, True])
def test_request_is_recorded_after_its_client_has_left(stream: bool) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    with running(decoder) as r:
        with connection(r.port) as s:
            send(s, {"prompt": "x", "max_tokens": 200, "stream": stream})
            wait(r.runner.submitted)
            decoder.let(3)
            if stream:
                assert b"200 OK" in s.recv(65536)
        wait(r.runner.cancelled)
        decoder.open_gate()
        (request,) = ended(r.port)
    assert (request["status"], request["reason"]) == (200 if stream else 499, "cancelled")
    assert request["prompt_tokens"] == 1


def test_superseded_and_late_requests_have_reasons_of_their_own() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    session = "X-TurboPilot-Session: mine\r\n"
    with running(decoder) as r, connection(r.port) as first, connection(r.port) as second:
        send(first, {"prompt": "x", "max_tokens": 200}, headers=session)
        wait(r.runner.submitted)
        send(second, {"prompt": "y", "max_tokens": 2}, headers=session)
        wait(r.runner.submitted)
        decoder.open_gate()
        ended(r.port, 2)
        late = {"prompt": "z", "deadline_ms": 1e-9}
        assert ask(r.port, "POST", "/v1/completions", late)[0] == 504
        reasons = [x["reason"] for x in ended(r.port, 3)]
    assert sorted(reasons[:2]) == ["length", "superseded"]
    assert reasons[2] == "deadline"


def test_stream_begins_with_the_state_and_goes_on_with_measurements() -> None:
    with running(TalkingDecoder()) as r, viewing(r.port) as stream:
        assert stream.response.getheader("Content-Type", "").startswith("text/event-stream")
        assert stream.response.getheader("X-Accel-Buffering") == "no"
        first = stream.event()
        assert first["samples"] == []
        assert ask(r.port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 9})[0] == 200
        found = [stream.event() for _ in range(2)]
        assert [len(e["samples"]) for e in found] == [1, 1]
        assert sum(e["samples"][0]["decode_speed"] for e in found) > 0
        assert len(found[-1]["requests"]) == 1
        assert len(status_at(r.port)["samples"]) >= 2


@pytest.fixture
def crowd() -> Iterator[tuple[int, list[Stream]]]:
    """Server with as many viewers as it allows."""
    with running(TalkingDecoder()) as r, ExitStack() as stack:
        streams = [stack.enter_context(viewing(r.port)) for _ in range(MOST_VIEWERS)]
        for stream in streams:
            assert stream.event()
        yield r.port, streams


def test_viewers_have_a_limit_and_leave_threads_for_requests(
    crowd: tuple[int, list[Stream]],
) -> None:
    port, streams = crowd
    status, headers, _ = ask(port, "GET", "/status/stream")
    assert (status, headers["Retry-After"]) == (503, str(RETRY_SECONDS))
    body = {"prompt": "x", "max_tokens": 2}
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, port, "POST", "/v1/completions", body) for _ in range(16)]
        assert {a.result()[0] for a in asked} == {200}
    streams[0].close()
    while True:  # until the server has noticed
        with viewing(port) as stream:
            if stream.response.status == 200:
                assert stream.event()
                return


def test_viewer_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.status.feed.INTERVAL", 0.0)
    large = replace(SSE, after=b" " * 2**20 + b"\n\n")  # fills the buffers of the sockets soon
    monkeypatch.setattr("serve.status.server_status.SSE", large)
    clock = Clock()
    with running(TalkingDecoder(), clock=clock) as r, socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", r.port))
        s.sendall(b"GET /status/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        channels = r.server._server.active_channels
        while not any(c.total_outbufs_len > 2**16 for c in list(channels.values())):
            pass
        while channels:
            clock.forward(STUCK_SECONDS, r.server)
        assert ask(r.port, "POST", "/v1/completions", {"prompt": "x", "max_tokens": 1})[0] == 200


def test_shutdown_ends_the_streams_of_viewers_that_read_and_that_do_not() -> None:
    with running(TalkingDecoder()) as r, connection(r.port) as idle, viewing(r.port) as stream:
        idle.sendall(b"GET /status/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.event()
        r.shutdown.begin()
        while stream.event() is not None:
            pass
        r.thread.join(60)
        assert not r.thread.is_alive()


def test_other_sites_and_clients_without_a_key_see_nothing(make_client: MakeClient) -> None:
    client = make_client(SecurityOptions(api_keys=("k",)))
    for path in ("/status", "/status/stream", "/status/settings"):
        assert client.get(path).status_code == 401
        headers = {"Authorization": "Bearer k", "Origin": "https://evil.example"}
        assert client.get(path, headers=headers).status_code == 403
    for path in ("/models/load", "/models/unload"):
        assert client.post(path, json={"model": "fake"}).status_code == 401


def test_settings_are_those_of_the_server(make_client: MakeClient) -> None:
    lab = Lab({"a": 1})
    shown = ShownOption("--port", "80", is_default=False, help="Port.")
    client = create_app(lab.pool, shown=(shown,)).test_client()
    assert client.get("/status/settings").get_json() == {
        "settings": [{"flag": "--port", "value": "80", "is_default": False, "help": "Port."}]
    }


def reported(client: FlaskClient) -> dict[tuple[str, str], float]:
    text = client.get("/metrics").get_data(as_text=True)
    (family,) = (
        f
        for f in text_string_to_metric_families(text)
        if f.name == "turbopilot_completions_reported"
    )
    return {(s.labels["client"], s.labels["report"]): s.value for s in family.samples}


def test_reports_of_clients_are_counted_in_status_and_metrics(make_client: MakeClient) -> None:
    client = make_client()
    tabby, sweep = {"User-Agent": "tabby-agent/1.8"}, {"User-Agent": "Sweep/2"}
    for kind in ("view", "view", "select", "unknown"):
        assert client.post("/v1/events", json={"type": kind}, headers=tabby).get_data() == b""
    body = {"event_type": "autocomplete_suggestion_disposed", "autocomplete_id": "x"}
    metrics = "/backend/track_autocomplete_metrics"
    assert client.post(metrics, json=body, headers=sweep).status_code == 200
    assert status_of(client)["accepted"] == [
        {"client": "tabby-agent", "shown": 2, "accepted": 1, "dismissed": 0},
        {"client": "Sweep", "shown": 0, "accepted": 0, "dismissed": 1},
    ]
    assert reported(client)["tabby-agent", "shown"] == 2
    assert reported(client)["Sweep", "dismissed"] == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 10_000, b'{"type": {}}', b"null", b'"view"'])
def test_hostile_reports_are_answered_and_not_counted(make_client: MakeClient, data: bytes) -> None:
    client = make_client()
    for path in ("/v1/events", "/backend/track_autocomplete_metrics"):
        response = client.post(path, data=data, headers={"User-Agent": "\x1b[31m"})
        assert (response.status_code, response.get_data()) == (200, b"")
    assert status_of(client)["accepted"] == []


def makes(name: str, decoder: FakeDecoder) -> PooledModel:
    def load() -> CompletionService:
        decoder.rebuild()
        return host(Engine(decoder, EngineOptions()), name=name)

    return PooledModel(info(name), 1, load)


@contextmanager
def two_models(decoder: FakeDecoder) -> Iterator[tuple[ModelPool, int]]:
    """Serve the models "a", which uses the decoder, and "b"."""
    pool = ModelPool([makes("a", decoder), makes("b", FakeDecoder(script("yes")))], memory=2)
    server = HttpServer(create_app(pool), bind("127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield pool, server.port
    finally:
        decoder.open_gate()
        pool.close()
        server.stop()
        thread.join()


def change(port: int, what: str, name: str) -> tuple[int, Any]:
    status, _, data = ask(port, "POST", f"/models/{what}", {"model": name})
    return status, json.loads(data)


def states(port: int) -> dict[str, str]:
    return {m["name"]: m["status"] for m in status_at(port)["models"]}


def test_models_are_loaded_and_unloaded_on_request() -> None:
    with two_models(FakeDecoder(script("yes"))) as (_, port):
        for _ in range(2):
            assert change(port, "load", "b") == (200, {"success": True})
            assert states(port) == {"a": "unloaded", "b": "ok"}
        for _ in range(2):
            assert change(port, "unload", "b") == (200, {"success": True})
            assert states(port) == {"a": "unloaded", "b": "unloaded"}
        assert change(port, "load", "a")[0] == change(port, "unload", "a")[0] == 200
        assert ask(port, "POST", "/v1/completions", {"prompt": "x?"})[0] == 200
        assert states(port)["a"] == "ok"
        texts = [e["text"] for e in status_at(port)["events"] if e["model"] == "b"][-2:]
        assert texts[0].startswith("loaded b in ")
        assert texts[1] == "unloading b on request"


@pytest.mark.parametrize("what", ["load", "unload"])
def test_unknown_model_can_neither_be_loaded_nor_unloaded(what: str) -> None:
    with two_models(FakeDecoder()) as (_, port):
        status, answer = change(port, what, "c")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert ask(port, "POST", f"/models/{what}", {})[0] == 400
        assert ask(port, "POST", f"/models/{what}", [1])[0] == 400


def test_unloading_ends_running_requests_with_an_error_to_retry() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0))
    with two_models(decoder) as (pool, port), ThreadPoolExecutor(2) as threads:
        assert change(port, "load", "a")[0] == 200
        body = {"prompt": "x", "max_tokens": 50}
        (service,) = pool.loaded
        asked = threads.submit(ask, port, "POST", "/v1/completions", body)
        while not service.runner.n_open:
            pass
        stopped = threading.Event()
        stop = service.runner.request_stop

        def request_stop() -> None:
            stop()
            stopped.set()

        service.runner.request_stop = request_stop  # type: ignore[method-assign]
        unloaded = threads.submit(change, port, "unload", "a")
        assert stopped.wait(60)
        decoder.open_gate()
        status, headers, data = asked.result()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert b"a is being unloaded" in data
        assert unloaded.result() == (200, {"success": True})
        assert states(port)["a"] == "unloaded"
        assert ask(port, "POST", "/v1/completions", body)[0] == 200


def test_model_that_is_loading_is_unloaded_afterwards() -> None:
    lab = Lab({"a": 1, "b": 1})
    gate = lab.gates["b"] = threading.Event()
    with ThreadPoolExecutor(2) as threads:

        def use() -> None:
            with lab.pool.use("b"):
                pass

        used = threads.submit(use)
        wait(lab.began)
        unloaded = threads.submit(lab.pool.unload_now, "b")
        gate.set()
        used.result()
        unloaded.result()
    assert lab.unloads == ["b"]
    with pytest.raises(UnknownModel):
        lab.pool.unload_now("c")


def test_model_of_upstreams_cannot_be_unloaded() -> None:
    lab = Lab({"a": 1})
    with lab.pool.use("a") as service:
        service.upstreams = object()  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match="upstreams compute a"):
        lab.pool.unload_now("a")


def test_model_is_not_unloaded_while_the_server_shuts_down() -> None:
    lab = Lab({"a": 1})
    with lab.pool.use("a"):
        pass
    lab.pool.drain()
    with pytest.raises(Overloaded, match="shutting down"):
        lab.pool.unload_now("a")


def test_model_that_cannot_be_loaded_is_an_event() -> None:
    lab = Lab({"a": 1})
    lab.errors["a"].append(CorruptModel("a.gguf is truncated"))
    client = create_app(lab.pool).test_client()
    assert client.post("/models/load", json={"model": "a"}).status_code == 500
    event = client.get("/status").get_json()["events"][-1]
    assert (event["level"], event["model"]) == ("warning", "a")
    assert event["text"] == "a cannot be loaded: a.gguf is truncated"


class FeedLab:
    """Feed whose pauses end when the test calls `tick`, or when it shuts down."""

    def __init__(self) -> None:
        self.ticks, self.paused = threading.Semaphore(0), threading.Semaphore(0)
        self.is_open, self.n_measured, self.first_readings = True, 0, 0
        self.fails = False
        self.feed = StatusFeed(self._measure, lambda: b"first", self._pause)

    def _pause(self, _: float) -> bool:
        self.paused.release()
        wait(self.ticks)
        return self.is_open

    def _measure(self, is_first: bool) -> bytes:
        if is_first:
            self.first_readings += 1
            return b""
        if self.fails:
            raise ValueError("broken")
        self.n_measured += 1
        return b"%d" % self.n_measured

    def tick(self) -> None:
        """Let the thread make a snapshot; return when it pauses again."""
        self.ticks.release()
        wait(self.paused)

    def end(self) -> None:
        self.is_open = False
        self.ticks.release()


@pytest.fixture
def feed_lab() -> Iterator[FeedLab]:
    lab = FeedLab()
    yield lab
    lab.end()


def test_viewers_share_snapshots_and_skip_those_that_they_are_too_slow_for(
    feed_lab: FeedLab,
) -> None:
    one, other = feed_lab.feed.open(), feed_lab.feed.open()
    wait(feed_lab.paused)
    ones, others = iter(one), iter(other)
    assert [next(ones), next(others)] == [b"first", b"first"]
    feed_lab.tick()
    assert next(ones) == b"1"
    feed_lab.tick()
    assert [next(ones), next(others)] == [b"2", b"2"]
    assert feed_lab.n_measured == 2
    one.go()
    assert list(ones) == []


def test_number_of_viewers_is_limited(feed_lab: FeedLab) -> None:
    viewers = [feed_lab.feed.open() for _ in range(MOST_VIEWERS)]
    with pytest.raises(Overloaded, match="viewers already"):
        feed_lab.feed.open()
    viewers[0].close()
    viewers[0].close()
    feed_lab.feed.open()
    with pytest.raises(Overloaded):
        feed_lab.feed.open()


def test_measurements_end_a_while_after_the_last_look_and_begin_again(feed_lab: FeedLab) -> None:
    feed_lab.feed.open().close()
    wait(feed_lab.paused)
    for _ in range(LINGER):
        feed_lab.tick()
    assert feed_lab.n_measured == LINGER
    feed_lab.ticks.release()  # the last measurement, after which the thread ends
    while feed_lab.feed.is_running:
        pass
    feed_lab.feed.look()
    wait(feed_lab.paused)
    assert feed_lab.first_readings == 2


def test_failed_measurement_is_logged_and_the_next_one_is_shown(
    feed_lab: FeedLab, caplog: pytest.LogCaptureFixture
) -> None:
    stream = iter(feed_lab.feed.open())
    wait(feed_lab.paused)
    assert next(stream) == b"first"
    feed_lab.fails = True
    feed_lab.tick()
    feed_lab.fails = False
    feed_lab.tick()
    assert next(stream) == b"1"
    assert "could not be measured" in caplog.text


def test_shutdown_ends_all_viewers_and_new_ones_get_one_snapshot(feed_lab: FeedLab) -> None:
    stream = iter(feed_lab.feed.open())
    wait(feed_lab.paused)
    next(stream)
    feed_lab.end()
    assert list(stream) == []
    assert list(feed_lab.feed.open()) == [b"first"]


def test_request_that_arrives_during_a_step_waits_in_the_queue() -> None:
    now = [0.0]
    entered, gate = threading.Semaphore(0), threading.Semaphore(0)

    def computing(_: object) -> None:
        entered.release()
        wait(gate)

    service, runner = make_service(FakeDecoder(fail=computing), clock=lambda: now[0])
    runner.start()
    first = service.start(Completion(("x",), 1), whole=True)
    wait(entered)
    second = service.start(Completion(("y",), 1), whole=True)
    now[0] = 5.0
    gate.release(100)
    for generation in (first, second):
        generation.collect()
    assert (first.n_ahead, second.n_ahead) == (0, 1)
    assert (first.inbox_seconds, second.inbox_seconds) == (0.0, 5.0)
    runner.close()
