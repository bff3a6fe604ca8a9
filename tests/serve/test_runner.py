"""The engine's thread: every request ends with exactly one terminal event, even after failures."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.request import Finished, GenerationRequest, SamplingParams, TextDelta
from serve.runner import Generation
from serve.runner.throughput import LONGEST, UNKNOWN, Throughput
from tests.serve.test_engine_step import expected
from tests.support.fakes import FakeDecoder
from tests.support.serving import WatchedRunner, make_service, wait
from turbopilot.base.errors import (
    DeadlineExceeded,
    DecoderFailed,
    NoKvSlot,
    Overloaded,
    TurboPilotError,
)


def request(
    text: str, max_tokens: int, *, name: str = "", deadline: float | None = None
) -> GenerationRequest:
    greedy = SamplingParams(temperature=0)
    return GenerationRequest(
        tuple(text.encode()), max_tokens, sampling=greedy, supersedes=name, deadline=deadline
    )


@contextmanager
def running(
    decoder: FakeDecoder, *, max_open: int = 100, clock: Callable[[], float] | None = None
) -> Iterator[WatchedRunner]:
    _, runner = make_service(decoder, max_open=max_open, clock=clock)
    runner.start()
    yield runner
    decoder.open_gate()
    runner.close()
    assert_nothing_is_left(runner)


def assert_nothing_is_left(runner: WatchedRunner) -> None:
    assert runner.n_open == 0
    assert not runner._open
    assert not runner._thread.is_alive()


def drain(job: Generation) -> dict[int, Finished]:
    """Return the terminal event of each request; fail if one is missing or repeated."""
    ends: dict[int, Finished] = {}
    while not job.is_finished:
        item = job.next_event(timeout=60)
        if item is None:
            continue  # abandoned: woken without an event
        index, event = item
        assert index not in ends
        if isinstance(event, Finished):
            ends[index] = event
    while (left := job._handed.empty()) is False:
        assert job._handed.get() is None, left
    assert not job._ready
    return ends


class Saboteur:
    """Raises each of the given errors once, in the engine's thread."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)

    def __call__(self, _: Sequence[BatchItem]) -> TurboPilotError | None:
        if self._errors:
            raise self._errors.pop(0)
        return None


def test_requests_from_many_threads_each_end_once() -> None:
    ends: list[dict[int, Finished]] = []
    with running(FakeDecoder(n_seq=2)) as runner:

        def client(i: int) -> None:
            job = runner.ask([request(f"{i} {k}", 5) for k in range(3)], whole=i % 2 == 0)
            if i % 3 == 0:
                job.cancel()
            ends.append(drain(job))

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(client, range(12)))
    assert len(ends) == 12
    assert all(set(e) == {0, 1, 2} for e in ends)
    assert {f.reason for e in ends for f in e.values()} <= {"length", "cancelled"}


def test_ten_thousand_requests_with_random_cancellations_leave_nothing_behind() -> None:
    threads_before = threading.active_count()
    failing = random.Random(0)

    def fail(_: Sequence[BatchItem]) -> TurboPilotError | None:
        at = failing.random()
        return NoKvSlot("no room") if at < 0.01 else DecoderFailed("boom") if at < 0.015 else None

    n_ended = [0] * 5
    decoder = FakeDecoder(n_seq=8, n_batch=64, fail=fail)
    with running(decoder, max_open=64) as runner:

        def client(number: int) -> None:
            rng = random.Random(number)
            jobs: list[Generation] = []
            n_sent = 0
            while n_sent < 2000:
                n = min(rng.choice((1, 1, 1, 2, 5)), 2000 - n_sent)
                name = f"{number}" if rng.random() < 0.2 else ""
                requests = [
                    request(chr(97 + rng.randrange(26)), rng.randrange(4)) for _ in range(n)
                ]
                requests[0] = request("a", 3, name=name)
                try:
                    jobs.append(runner.ask(requests, whole=rng.random() < 0.5))
                    n_sent += n
                except Overloaded:
                    pass  # take the results of earlier jobs first
                if jobs and rng.random() < 0.5:
                    rng.choice((Generation.cancel, Generation.abandon))(rng.choice(jobs))
                if len(jobs) > 5:
                    n_ended[number] += len(drain(jobs.pop(rng.randrange(len(jobs)))))
            n_ended[number] += sum(len(drain(job)) for job in jobs)

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(client, range(5)))
        assert runner.wait_until_idle(60)
        runner.engine.check_integrity()
    assert n_ended == [2000] * 5
    assert sum(runner.metrics.finished.values()) == 10_000
    assert threading.active_count() == threads_before


def test_whole_generation_wakes_its_taker_once() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate, n_seq=2)) as runner:
        whole = runner.ask([request("a", 6), request("b", 3)], whole=True)
        gate.release(5)
        follower = runner.ask([request("c", 1)])
        gate.release(20)
        drain(follower)  # by now, `whole` has ended too
        drained = drain(whole)
        assert {i: f.usage.completion_tokens for i, f in drained.items()} == {0: 6, 1: 3}
    # All events of both requests were in one message.
    assert whole._handed.empty()


def test_failed_choice_is_reported_before_the_others_end() -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_ctx=64)
    with running(decoder) as runner:
        job = runner.ask([request("a", 50), request("x" * 60, 50)], whole=True)
        found = job.next_event(timeout=60)  # the second does not fit; the first has no token yet
        assert found
        assert isinstance(found[1], Finished)
        assert found[1].reason == "error"
        job.cancel()


def test_stop_cancels_running_and_queued_requests() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate)) as runner:
        jobs = [runner.ask([request("a", 50)], whole=i == 1) for i in range(3)]
        runner.request_stop()
        gate.release()
        assert [drain(j)[0].reason for j in jobs] == ["cancelled"] * 3
        with pytest.raises(Overloaded, match="shutting down"):
            runner.ask([request("a", 5)])
    assert runner.engine_closed
    assert runner.failure is None


def test_draining_finishes_open_requests_and_refuses_new_ones() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate)) as runner:
        jobs = [runner.ask([request("a", 5)]) for _ in range(3)]
        runner.drain()
        assert runner.is_draining
        assert not runner.is_cut
        with pytest.raises(Overloaded, match="shutting down"):
            runner.ask([request("a", 5)])
        assert not runner.wait_until_idle(0)
        gate.release(100)
        assert runner.wait_until_idle(60)
        assert [drain(j)[0].reason for j in jobs] == ["length"] * 3


def test_engine_that_fails_ends_its_requests_and_restarts(caplog: pytest.LogCaptureFixture) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), fail=Saboteur(RuntimeError("a bug")))
    with running(decoder) as runner:
        jobs = [runner.ask([request("a", 50)], whole=i == 1) for i in range(3)]
        decoder.let()
        for job in jobs:
            end = drain(job)[0]
            assert end.reason == "error"
            assert isinstance(end.error, DecoderFailed)
        decoder.let(5)
        assert drain(runner.ask([request("a", 5)]))[0].reason == "length"
        assert runner.failure is None
        assert runner.n_restarts == 1
    assert "the engine failed" in caplog.text


def breaks(runner: WatchedRunner) -> Finished:
    return drain(runner.ask([request("a", 5)]))[0]


def test_engine_is_not_restarted_after_repeated_failures() -> None:
    bug = RuntimeError("a bug")
    with running(FakeDecoder(fail=Saboteur(*[bug] * 4)), clock=lambda: 100.0) as runner:
        for _ in range(4):
            assert isinstance(breaks(runner).error, DecoderFailed)
        runner._thread.join()
        with pytest.raises(DecoderFailed, match="a bug"):
            runner.ask([request("a", 5)])
        assert runner.failure
        assert runner.n_restarts == 3


def test_engine_is_restarted_after_rare_failures() -> None:
    now = itertools.count(0.0, 25.0)  # each reading of the clock is 25 s later
    with running(
        FakeDecoder(fail=Saboteur(*[RuntimeError("a bug")] * 9)), clock=lambda: next(now)
    ) as runner:
        for _ in range(9):
            assert isinstance(breaks(runner).error, DecoderFailed)
        assert breaks(runner).reason == "length"
        assert runner.failure is None


@pytest.mark.parametrize("fault", [SystemExit(), KeyboardInterrupt(), MemoryError("no memory")])
def test_requests_end_if_the_engine_thread_dies(fault: BaseException) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_seq=2, fail=Saboteur(*[fault] * 9))
    with running(decoder, clock=lambda: 0.0) as runner:
        jobs = [runner.ask([request("a", 50), request("b", 50)]) for _ in range(3)]
        decoder.let(10)
        for job in jobs:
            ends = drain(job)
            assert [ends[i].reason for i in (0, 1)] == ["error", "error"]
        if isinstance(fault, Exception):
            assert runner.failure is None  # the engine was restarted
        else:
            runner._thread.join()
            assert runner.failure
            with pytest.raises(DecoderFailed):
                runner.ask([request("a", 5)])


def test_engine_that_cannot_be_reset_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(FakeDecoder(fail=Saboteur(RuntimeError("a bug")))) as runner:

        def reset(_: TurboPilotError) -> list[object]:
            raise RuntimeError("no memory")

        monkeypatch.setattr(runner.engine, "reset", reset)
        assert isinstance(breaks(runner).error, DecoderFailed)
        runner._thread.join()
        assert runner.failure


def test_requests_lost_by_a_failed_engine_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(FakeDecoder(fail=Saboteur(RuntimeError("a bug")))) as runner:
        monkeypatch.setattr(runner.engine, "reset", lambda _: [])
        assert isinstance(breaks(runner).error, DecoderFailed)


@pytest.mark.parametrize("jump", [-1e9, 1e9, float("nan")])
def test_jumping_clock_does_not_end_a_request_twice(jump: float) -> None:
    times = itertools.chain([0.0, 0.0, 0.1, jump], itertools.cycle((0.2, jump, -jump)))
    lock = threading.Lock()

    def clock() -> float:
        with lock:
            return next(times)

    with running(FakeDecoder(n_seq=2, fail=Saboteur(RuntimeError("a bug"))), clock=clock) as runner:
        jobs = [runner.ask([request("a", 20, deadline=5.0)]) for _ in range(10)]
        for job in jobs:
            end = drain(job)[0]
            assert end.reason in ("length", "error")
            assert end.error is None or isinstance(end.error, DeadlineExceeded | DecoderFailed)


def test_unread_generation_does_not_block_others() -> None:
    with running(FakeDecoder()) as runner:
        lazy = runner.ask([request("lazy", 200)])
        assert drain(runner.ask([request("eager", 5)]))[0].reason == "length"
        assert sum(1 for _ in iter(lambda: lazy.next_event(0), None)) == 200 + 1


def test_cancel_after_the_end_does_nothing() -> None:
    with running(FakeDecoder()) as runner:
        job = runner.ask([request("a", 2)])
        first = job.next_event(timeout=60)
        assert first
        assert isinstance(first[1], TextDelta)
        drain(job)
        job.cancel()
        job.cancel()
        assert drain(runner.ask([request("b", 2)]))[0].reason == "length"


def test_abandon_wakes_a_waiting_taker() -> None:
    with running(FakeDecoder(gate=threading.Semaphore(0))) as runner:
        job = runner.ask([request("a", 2)], whole=True)
        found: list[object] = []
        taker = threading.Thread(target=lambda: found.append(job.next_event()))
        taker.start()
        job.abandon()  # before the first token
        taker.join()
        assert found == [None]


def test_superseding_one_choice_ends_all_choices() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate, n_seq=4)) as runner:
        old = runner.ask([request("a", 50, name="x"), request("b", 50), request("c", 50)])
        new = runner.ask([request("d", 2, name="x"), request("e", 2)])
        other = runner.ask([request("f", 2, name="y")])
        gate.release(100)
        assert [f.reason for f in drain(old).values()] == ["cancelled"] * 3
        assert [f.reason for f in drain(new).values()] == ["length"] * 2
        assert [f.reason for f in drain(other).values()] == ["length"]


def test_queue_limit_counts_requests_instead_of_generations() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate), max_open=4) as runner:
        jobs = [runner.ask([request("a", 1)] * 9)]  # more than the limit, but the server is idle
        with pytest.raises(Overloaded, match="9 waiting or running"):
            runner.ask([request("b", 1)])
        gate.release(9)
        drain(jobs[0])
        jobs = [runner.ask([request("a", 1)] * 3), runner.ask([request("a", 1)])]
        with pytest.raises(Overloaded) as caught:
            runner.ask([request("b", 1)])
        assert caught.value.retry_after >= 1
        assert runner.n_refused == 2
        gate.release(9)
        for job in jobs:
            drain(job)


def test_wait_until_idle_ends_with_the_last_request() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate)) as runner:
        runner.ask([request("a", 1)])
        wait(runner.submitted)
        with ThreadPoolExecutor() as pool:
            idle = pool.submit(runner.wait_until_idle, 60)
            gate.release()
            assert idle.result()


def test_retry_after_follows_the_throughput() -> None:
    t = Throughput()
    assert t.seconds_until(5, now=0.0) == UNKNOWN
    for i in range(10):
        t.note(1, now=float(2 * i))
    assert t.seconds_until(1, now=20.0) == 2
    assert t.seconds_until(4, now=20.0) == 8
    assert t.seconds_until(10**9, now=20.0) == LONGEST
    assert t.seconds_until(1, now=-1e9) == 1
    t.note(10**9, now=20.0)
    assert t.seconds_until(1, now=20.0) == 1


def test_engine_is_warmed_up_in_the_computing_thread() -> None:
    """llama.cpp keeps worker threads for each calling thread; two sets of them halve each other's speed."""
    threads: list[int] = []

    class Noting(FakeDecoder):
        def warm_up(self) -> None:
            threads.append(threading.get_ident())

        def decode(self, batch: Sequence[BatchItem]) -> Logits:
            threads.append(threading.get_ident())
            return super().decode(batch)

    with running(Noting()) as runner:
        assert len(threads) == 1  # before the first request
        drain(runner.ask([request("a", 5)]))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_failed_warm_up_is_reported_and_does_not_hang() -> None:
    class Broken(FakeDecoder):
        def warm_up(self) -> None:
            raise DecoderFailed("boom")

    with running(Broken()) as runner:
        assert runner.failure is not None
        with pytest.raises(DecoderFailed):
            runner.ask([request("a", 5)])


def test_idle_engine_looks_ahead() -> None:
    decoder = FakeDecoder()
    engine = Engine(decoder, EngineOptions(looks_ahead=True))
    began = threading.Event()
    look_ahead = engine.look_ahead

    def noted() -> None:
        look_ahead()
        began.set()

    engine.look_ahead = noted  # type: ignore[method-assign]
    runner = WatchedRunner(engine)
    runner.start()
    drain(runner.ask([request("import os", 6)]))
    assert began.wait(60)
    taken = "import os" + expected("import os", 6)
    ends = drain(runner.ask([request(taken, 6)]))
    assert ends[0].usage.completion_tokens == 6
    runner.close()
    assert engine.metrics.known_tokens > 0
    assert engine.metrics.finished == {"length": 2}
