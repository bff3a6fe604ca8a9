"""Fake models for tests of the model pool, which assert that the pool uses them correctly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from serve.engine import Engine
from serve.models import ModelPool, PooledModel
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.runner import EngineRunner
from tests.support.fakes import FakeDecoder
from turbopilot.llama.worker_link import WorkerLink


class FakeRunner(EngineRunner):
    """Runner of a loaded model that is never started; a test sets its number of requests."""

    def __init__(self, lab: Lab, name: str) -> None:
        decoder = FakeDecoder()
        super().__init__(Engine(decoder))
        self.service = CompletionService(self, decoder, info(name))
        self.told: list[str] = []
        self._lab, self._name = lab, name

    def drain(self) -> None:
        self.told.append("drain")

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        return not self.n_open

    def request_stop(self) -> None:
        self.told.append("stop")
        self.n_open = 0

    def close(self) -> None:
        self._lab.closed(self._name, self)


def info(name: str) -> ModelInfo:
    return ModelInfo(name, 256, 260, 1_700_000_000)


class Lab:
    """Pool of fake models with these sizes; the first is the default and never idle. `idle` is in seconds."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        memory: int = 100,
        idle: float | None = None,
        max_waiting: int = 64,
    ) -> None:
        self.now = 0.0
        self.sizes, self.memory = sizes, memory
        self.alive: dict[str, FakeRunner] = {}
        self.users = dict.fromkeys(sizes, 0)
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.errors: dict[str, list[BaseException]] = {name: [] for name in sizes}
        self.gates: dict[str, threading.Event] = {}
        self.links: dict[str, WorkerLink] = {}
        self.began, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self._one = threading.Lock()
        self.pool = ModelPool(
            [
                PooledModel(info(name), size, self._loader(name), idle if i else None)
                for i, (name, size) in enumerate(sizes.items())
            ],
            memory=memory,
            max_waiting=max_waiting,
            clock=lambda: self.now,
        )

    def _loader(self, name: str) -> Callable[[], CompletionService]:
        def load() -> CompletionService:
            assert self._one.acquire(blocking=False), "two loads at a time"
            try:
                self.began.release()
                if gate := self.gates.get(name):
                    assert gate.wait(60)
                if self.errors[name]:
                    raise self.errors[name].pop()
                assert name not in self.alive, "loaded twice"
                taken = sum(self.sizes[n] for n in self.alive) + self.sizes[name]
                assert taken <= self.memory, "models exceed the memory"
                self.loads.append(name)
                self.alive[name] = FakeRunner(self, name)
                if link := self.links.get(name):
                    self.alive[name].service.links = (link,)
                return self.alive[name].service
            finally:
                self._one.release()

        return load

    def closed(self, name: str, runner: FakeRunner) -> None:
        assert self.alive.pop(name) is runner, "unloaded twice"
        assert not runner.n_open, "unloaded with an open request"
        assert not self.users[name], "unloaded in use"
        self.unloads.append(name)
        self.ended.release()

    def states(self) -> dict[str, str]:
        return {s.name: s.state for s in self.pool.statuses}


def one_model(decoder: FakeDecoder) -> ModelPool:
    """Return a pool of one model with a real engine."""
    model = PooledModel(info(decoder.name), 1, lambda: host(Engine(decoder)))
    return ModelPool([model], memory=1)


class Client:
    """Client that releases `waits` when it begins to wait, and disconnects when a test calls `leave`."""

    def __init__(self) -> None:
        self.waits = threading.Semaphore(0)
        self.forgotten = False
        self.leave: Callable[[], None] = lambda: None

    def when_gone(self, callback: Callable[[], None]) -> Callable[[], object]:
        self.leave = callback
        self.waits.release()

        def forget() -> None:
            self.forgotten = True

        return forget
