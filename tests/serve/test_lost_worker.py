"""Loss of a worker: requests end with one error, other models go on, and the model returns with the worker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from serve.engine import Engine
from serve.models import worker_return
from serve.runner.generation import stays
from tests.serve.test_runner import request
from tests.support.fake_worker import FakeWorker
from tests.support.fakes import FakeDecoder
from tests.support.pooled import Client, Lab
from tests.support.serving import WatchedRunner, wait
from turbopilot.base.errors import CorruptModel, DeviceLost
from turbopilot.llama.worker_link import WorkerLink


def gone(*workers: str) -> DeviceLost:
    return DeviceLost(f"the worker {workers[0]} is gone: it fell asleep", workers=workers)


@pytest.mark.parametrize("raises", [False, True])
def test_requests_end_with_one_error_and_the_thread_ends(raises: bool) -> None:
    computing, release = threading.Event(), threading.Event()

    class Lost(FakeDecoder):
        def decode(self, items):  # type: ignore[no-untyped-def]
            computing.set()
            release.wait()
            if raises:  # as LlamaContext does after a loss
                raise gone("a:1")
            return super().decode(items)

    runner = WatchedRunner(Engine(Lost()))
    runner.watch.warm_up = lambda: None  # type: ignore[method-assign]
    runner.start()
    running = runner.ask([request("x", 4)], whole=True)
    waiting = runner.ask([request("y", 4)], whole=True)
    computing.wait()
    error = gone("a:1")
    runner.fail(error)
    with pytest.raises(DeviceLost):
        runner.ask([request("z", 4)])
    release.set()
    for generation in (running, waiting):
        with pytest.raises(DeviceLost):
            generation.collect()
    runner.close()
    assert isinstance(runner.failure, DeviceLost)
    assert not runner.n_open
    assert not runner.n_restarts


@pytest.fixture
def port() -> int:
    """Port of a worker that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def lab(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A pool of "far", which uses the worker, and "near"; both are loaded."""
    monkeypatch.setattr(worker_return, "LOOK_SECONDS", 0.02)
    lab = Lab({"far": 1, "near": 1})
    lab.links["far"] = WorkerLink(f"127.0.0.1:{port}")
    for name in ("far", "near"):
        use(lab, name)
        wait(lab.began)
    yield lab
    lab.pool.close()


def use(lab: Lab, name: str, client: Client | None = None) -> str:
    with lab.pool.use(name, client.when_gone if client else stays) as service:
        return service.model.name


def lose(lab: Lab, port: int) -> None:
    """Lose the worker of "far", and wait until the model is unloaded."""
    link = lab.links.pop("far")
    link.lose(gone(link.address))
    wait(lab.ended)


def test_model_is_unloaded_and_other_models_go_on(lab: Lab, port: int) -> None:
    lose(lab, port)
    assert lab.unloads == ["far"]
    assert lab.states() == {"far": "failed", "near": "ok"}
    assert f"the worker 127.0.0.1:{port} is gone" in lab.pool.statuses[0].reason
    for _ in range(3):
        with pytest.raises(DeviceLost, match="is gone"):
            use(lab, "far")
        assert use(lab, "near") == "near"
    assert lab.loads == ["far", "near"]


def test_model_is_loaded_again_when_the_worker_returns(lab: Lab, port: int) -> None:
    lose(lab, port)
    lab.gates["far"] = threading.Event()
    with closing(FakeWorker(port)):
        wait(lab.began)
        assert lab.states()["far"] == "loading"
        lab.gates["far"].set()
        assert use(lab, "far") == "far"  # waits for it
    assert lab.states() == {"far": "ok", "near": "ok"}
    assert lab.loads == ["far", "near", "far"]


def test_loss_while_the_model_is_loaded_again_is_tried_again(lab: Lab, port: int) -> None:
    lose(lab, port)
    lab.errors["far"] = [gone(f"127.0.0.1:{port}") for _ in range(3)]
    with closing(FakeWorker(port)):
        for _ in range(4):
            wait(lab.began)
        assert use(lab, "far") == "far"


def test_other_error_after_the_return_leaves_the_next_try_to_a_request(lab: Lab, port: int) -> None:
    lose(lab, port)
    lab.errors["far"] = [CorruptModel("far.gguf: damaged")]
    gate = lab.gates["far"] = threading.Event()
    with closing(FakeWorker(port)), ThreadPoolExecutor(1) as pool:
        wait(lab.began)
        client = Client()
        asked = pool.submit(use, lab, "far", client)
        wait(client.waits)
        gate.set()
        with pytest.raises(CorruptModel):
            asked.result()
        assert lab.pool.statuses[0].reason == "far.gguf: damaged"
        assert use(lab, "far") == "far"


def test_model_in_use_is_freed_when_its_users_are_done(lab: Lab, port: int) -> None:
    link = lab.links.pop("far")
    with lab.pool.use("far"):
        lab.users["far"] = 1
        link.lose(gone(link.address))
        assert lab.states()["far"] == "failed"
        assert use(lab, "near") == "near"
        lab.users["far"] = 0
    wait(lab.ended)
    assert lab.unloads == ["far"]


def test_pool_closes_while_it_waits_for_a_worker(lab: Lab, port: int) -> None:
    lose(lab, port)
    lab.pool.close()
    for thread in threading.enumerate():
        if thread.name == "turbopilot-worker-return":
            thread.join(60)
            assert not thread.is_alive()
    assert lab.unloads == ["far", "near"]
