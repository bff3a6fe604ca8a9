"""Loss of a worker: all requests end with one error, and other models go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from serve.engine import Engine
from serve.models.loading import host
from serve.runner import EngineRunner
from serve.runner.compute_lock import ComputeLock
from tests.serve.test_runner import request
from tests.support.fakes import FakeDecoder
from tests.support.serving import WatchedRunner
from turbopilot.base.errors import DeviceLost
from turbopilot.llama import worker_loss
from turbopilot.llama.worker_loss import loss_of, lost_workers, report_loss, watch_workers

MESSAGE = "/build/ggml-rpc.cpp:354: Remote RPC server crashed or returned malformed response"


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_loss, "workers", lambda: ("a:1", "b:2"))
    yield
    assert not worker_loss._handlers


def test_only_models_on_the_lost_worker_fail(two_workers: None) -> None:
    told: dict[str, DeviceLost] = {}
    ends = [
        watch_workers([w], lambda e, w=w: told.update({w: e}))  # type: ignore[misc]
        for w in ("a:1", "b:2")
    ]
    assert report_loss(MESSAGE, ["a:1"])
    assert list(told) == ["a:1"]
    assert told["a:1"].message.startswith("the worker a:1 is gone: Remote RPC server crashed")
    for end in ends:
        end()
    assert not report_loss(MESSAGE, ["a:1", "b:2"])


def test_lost_worker_is_looked_for_until_it_stops_listening(two_workers: None) -> None:
    answers = iter([True, True, True, False])
    assert lost_workers(lambda worker: next(answers), looks=3) == ("b:2",)


def test_if_all_workers_answer_every_model_on_one_fails(two_workers: None) -> None:
    told: list[str] = []
    end = watch_workers(["b:2"], lambda e: told.append(e.message))
    gone = lost_workers(lambda worker: True, looks=1)
    assert report_loss(MESSAGE, gone)
    assert told[0].startswith("the worker a:1 or b:2 is gone")
    end()


def test_requests_end_while_the_engine_waits_forever() -> None:
    stuck, release = threading.Event(), threading.Event()

    class Stuck(FakeDecoder):
        def decode(self, items):  # type: ignore[no-untyped-def]
            stuck.set()
            release.wait()
            return super().decode(items)

    decoder, ask = Stuck(), request("x", 4)
    lock = ComputeLock()
    runner = WatchedRunner(Engine(decoder), compute_lock=lock)
    runner.watch.warm_up = lambda: None  # type: ignore[method-assign]
    runner.start()
    running, waiting = runner.ask([ask], whole=True), runner.ask([ask], whole=True)
    stuck.wait()
    error = loss_of(["a:1"], MESSAGE)
    runner.abandon(error)
    for generation in (running, waiting):
        with pytest.raises(DeviceLost):
            generation.collect()
    with pytest.raises(DeviceLost):
        runner.ask([ask])
    with lock.turn():  # another model can compute
        pass
    runner.close()  # does not wait for the thread
    assert runner.failure is error
    release.set()
    runner._thread.join()


def test_service_of_a_lost_worker_is_failed_and_not_freed() -> None:
    freed: list[bool] = []
    service = host(Engine(FakeDecoder()), free=lambda: freed.append(True))
    runner = service.runner
    assert isinstance(runner, EngineRunner)
    runner.abandon(loss_of(["a:1"], MESSAGE))
    assert service.status.state == "failed"
    assert "a:1" in service.status.reason
    service.close()
    assert not freed
    runner.is_lost = False
    service.close()
    assert freed
