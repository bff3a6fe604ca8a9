"""Computations that never return: `/health` reports them, and the process still ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve.engine import Engine
from serve.http.app import create_app
from serve.metrics import EngineMetrics
from serve.models import ModelPool, PooledModel
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.runner.compute_lock import ComputeLock
from serve.runner.step_watch import SHORTEST, step_limit
from tests.support.fakes import FakeDecoder
from tests.support.serving import connection, send
from turbopilot.base.errors import ServeError

ROOT = Path(__file__).parents[2]
FAST = EngineMetrics(batch_tokens=10_000, decode_seconds=10.0)
SLOW = EngineMetrics(batch_tokens=10_000, decode_seconds=20_000.0)


def test_limit_of_a_step_grows_with_its_batch_and_the_machines_speed() -> None:
    assert step_limit(FAST, 512, warm_up=0.1) == SHORTEST
    assert step_limit(SLOW, 512, warm_up=0.1) == 10 * 512 * 2.0
    assert step_limit(SLOW, 2048, warm_up=0.1) == 10 * 2048 * 2.0


def test_limit_of_the_first_steps_follows_from_the_warm_up() -> None:
    metrics = EngineMetrics(batch_tokens=511, decode_seconds=0.5)
    assert step_limit(metrics, 512, warm_up=3.0) == 10 * 512 * 3.0
    assert step_limit(EngineMetrics(), 512, warm_up=0.0) == SHORTEST


def test_turn_is_overdue_only_after_its_limit() -> None:
    now = 0.0
    lock = ComputeLock(lambda: now)
    found: list[tuple[float | None, float | None]] = []

    def look(at: float) -> None:
        nonlocal now
        now = at
        found.append((lock.seconds, lock.overdue))

    look(0.0)
    with lock.turn(60):
        look(60.0)
        look(61.0)
    look(62.0)
    with lock.turn():
        look(1e9)
    assert found == [(None, None), (60.0, None), (61.0, 61.0), (None, None), (1e9 - 62, None)]


class Stuck:
    """Two models that share a lock. The second one, "b", computes when `decoder` lets it; `now` is the lock's time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
        self.lock = ComputeLock(lambda: self.now)
        decoders = {"a": FakeDecoder(n_batch=64), "b": self.decoder}
        self.services = {
            name: host(Engine(d), name=name, compute_lock=self.lock) for name, d in decoders.items()
        }
        models = [PooledModel(s.model, 1, self.loader(s)) for s in self.services.values()]
        self.pool = ModelPool(models, memory=2)
        for name in self.services:
            with self.pool.use(name):
                pass
        self.client = create_app(self.pool).test_client()

    def loader(self, service: CompletionService) -> Any:
        return lambda: service

    def health(self) -> tuple[int, Any]:
        answer = self.client.get("/health")
        return answer.status_code, answer.get_json()

    def ask(self, model: str) -> Any:
        body = {"model": model, "prompt": "x", "max_tokens": 2}
        return self.client.post("/v1/completions", json=body)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    found = Stuck()
    yield found
    found.decoder.open_gate()
    found.pool.close()


def test_health_reports_a_step_that_does_not_return(stuck: Stuck) -> None:
    """Check the default model too, which waits for the lock that the other model holds."""
    assert stuck.health()[0] == 200
    asking = threading.Thread(target=stuck.ask, args=("b",))
    asking.start()
    while stuck.lock.seconds is None:
        pass
    stuck.now = SHORTEST
    assert stuck.health()[0] == 200
    stuck.now = SHORTEST + 1
    status, health = stuck.health()
    assert (status, health["status"]) == (503, "stalled")
    assert health["reason"] == f"a computation has not returned for {SHORTEST + 1:.0f} s"
    assert [m["status"] for m in health["models"]] == ["stalled", "stalled"]
    for model in ("a", "b"):
        refused = stuck.ask(model)
        assert refused.status_code == 503
        assert "has not returned" in refused.get_json()["error"]["message"]
    stuck.decoder.open_gate()
    asking.join()
    assert stuck.health()[0] == 200
    assert stuck.ask("a").status_code == 200


def test_pool_reports_the_computation_that_delays_its_end(stuck: Stuck) -> None:
    assert stuck.pool.hold_up == ""
    with stuck.lock.turn():
        stuck.now = 75.0
        assert stuck.pool.hold_up == "a computation has not returned for 75 s"


def test_pool_reports_the_load_that_delays_its_end() -> None:
    loading, done = threading.Event(), threading.Event()

    def load() -> CompletionService:
        loading.set()
        done.wait()
        raise ServeError("no model")

    pool = ModelPool([PooledModel(ModelInfo("large", 64, 260, 0), 1, load)], memory=1)
    pool.preload(lambda _: None)
    loading.wait()
    assert pool.hold_up == "large is still loading"
    done.set()
    pool.close()


# argv: what hangs, or the name of a thread that cannot be started
SERVER = """
import ctypes, faulthandler, sys, threading
from pathlib import Path
from serve.engine import Engine
from serve.http import shutdown
from serve.http.server import bind, run
from serve.models import ModelPool, PooledModel
from serve.models.loading import host
from serve.models.status import ModelInfo
from serve.runner.compute_lock import ComputeLock
from serve.settings import Limits, ServerOptions
from tests.support.fakes import FakeDecoder
from turbopilot.base.errors import TurboPilotError

what = sys.argv[1]
shutdown.LAST_SECONDS = 0.2
lock = ComputeLock()
start = threading.Thread.start

def failing(thread):
    if thread.name.split()[0] == what:
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = failing

class Hanging(FakeDecoder):
    def decode(self, batch):
        print("computing", flush=True)
        if what == "interpreter":
            while not any(t.name == "turbopilot-end" for t in threading.enumerate()):
                pass
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock
        threading.Event().wait()

def load(decoder):
    if what == "load":
        print("loading", flush=True)
        threading.Event().wait()
    return host(Engine(decoder), compute_lock=lock)

def model(name, decoder):
    info = ModelInfo(name, decoder.n_ctx, decoder.n_vocab, 0)
    return PooledModel(info, 1, lambda: load(decoder), idle=1000.0)

models = ModelPool([model("good", FakeDecoder()), model("bad", Hanging())], memory=2)
options = ServerOptions(Path("none"), limits=Limits(grace=0))
try:
    run(models, bind("127.0.0.1", 0), options, lambda line: print(line, flush=True))
except TurboPilotError as e:
    print("error:", e)
    left = [t for t in threading.enumerate() if t is not threading.main_thread()]
    for t in left:
        t.join(20)
    print("left:", [t.name for t in left if t.is_alive()])
"""


@contextmanager
def process(what: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as p:  # fmt: skip
        try:
            yield p
        finally:
            p.kill()


def stop_while_it_computes(p: subprocess.Popen[str]) -> None:
    assert p.stdout
    ready = next(line for line in p.stdout if line.startswith("ready"))
    with connection(int(ready.split("127.0.0.1:")[1].split()[0])) as s:
        send(s, {"model": "bad", "prompt": "a", "max_tokens": 5})
        assert "computing\n" in p.stdout
        p.send_signal(signal.SIGTERM)
        p.wait(60)


def test_process_ends_after_the_grace_period_although_a_step_hangs() -> None:
    with process("step") as p:
        stop_while_it_computes(p)
        _, err = p.communicate()
    assert p.returncode == ServeError.exit_code, err
    assert "ending the process 0.2 s after the signal: a computation has not returned for" in err
    assert "Traceback" not in err


@pytest.mark.skipif(os.name == "nt", reason="the C library's sleep")
def test_process_ends_although_a_step_holds_the_interpreter() -> None:
    """Expect no reason in the log, since no Python code can run then."""
    with process("interpreter") as p:
        stop_while_it_computes(p)
        _, err = p.communicate()
    assert p.returncode == 1, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_ends_after_the_grace_period_although_a_load_hangs(number: signal.Signals) -> None:
    with process("load") as p:
        assert p.stdout
        assert p.stdout.readline() == "loading\n"
        p.send_signal(number)
        out, err = p.communicate(timeout=60)
    assert (p.returncode, out) == (ServeError.exit_code, ""), err
    assert "ending the process 0.2 s after the signal: good is still loading" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "thread",
    ["waitress-0", "waitress-5", "turbopilot-idle", "turbopilot-load", "turbopilot-engine"],
)
def test_start_without_enough_threads_ends_and_leaves_none(thread: str) -> None:
    with process(thread) as p:
        out, err = p.communicate(timeout=60)
    assert out.splitlines()[-2:] == [
        "error: no more threads can be started: can't start new thread",
        "left: []",
    ], out + err
    assert p.returncode == 0
    assert "Traceback" not in err
