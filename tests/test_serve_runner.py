from __future__ import annotations

import threading

import pytest

from serve.request import Finished, GenerationRequest, SamplingParams, TextDelta
from serve.runner import Job
from tests.fakes import FakeDecoder, make_service
from turbopilot.errors import DecoderFailed, Overloaded, TurboPilotError


def request(text: str, max_tokens: int) -> GenerationRequest:
    return GenerationRequest(tuple(text.encode()), max_tokens, (), SamplingParams(temperature=0))


def drain(job: Job) -> dict[int, Finished]:
    """The terminal events; fails where one comes twice or never."""
    ends: dict[int, Finished] = {}
    while not job.is_finished:
        item = job.next_event(timeout=60)
        assert item
        index, event = item
        assert index not in ends
        if isinstance(event, Finished):
            ends[index] = event
    assert job.next_event(timeout=0) is None
    return ends


def test_jobs_of_many_threads_each_end_once() -> None:
    _, runner = make_service(FakeDecoder(n_seq=2), max_jobs=100)
    runner.start()
    ends: list[dict[int, Finished]] = []

    def client(i: int) -> None:
        job = runner.submit([request(f"{i} {k}", 5) for k in range(3)])
        if i % 3 == 0:
            job.cancel()
        ends.append(drain(job))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(ends) == 12
    assert all(set(e) == {0, 1, 2} for e in ends)
    assert {f.reason for e in ends for f in e.values()} <= {"length", "cancelled"}
    assert runner.n_jobs == 0
    runner.close()


def test_closing_ends_what_runs_and_what_waits() -> None:
    gate = threading.Semaphore(0)
    decoder = FakeDecoder(gate=gate)
    _, runner = make_service(decoder)
    runner.start()
    jobs = [runner.submit([request("a", 50)]) for _ in range(3)]
    runner.request_stop()
    gate.release()
    assert [drain(j)[0].reason for j in jobs] == ["cancelled"] * 3
    runner.close()
    with pytest.raises(Overloaded, match="shutting down"):
        runner.submit([request("a", 5)])


def test_a_crash_is_told_to_all_and_to_whoever_comes_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Semaphore(0)

    def explode(_: object) -> TurboPilotError | None:
        raise RuntimeError("a bug")

    _, runner = make_service(FakeDecoder(gate=gate, fail=explode))
    runner.start()
    jobs = [runner.submit([request("a", 50)]) for _ in range(3)]
    gate.release()
    for job in jobs:
        end = drain(job)[0]
        assert end.reason == "error"
        assert isinstance(end.error, DecoderFailed)
    with pytest.raises(DecoderFailed, match="a bug"):
        runner.submit([request("a", 5)])
    assert runner.failure
    assert "the engine broke" in caplog.text
    runner.close()


def test_a_client_that_does_not_read_holds_up_nobody() -> None:
    _, runner = make_service(FakeDecoder())
    runner.start()
    lazy = runner.submit([request("lazy", 200)])
    assert drain(runner.submit([request("eager", 5)]))[0].reason == "length"
    assert sum(1 for _ in iter(lambda: lazy.next_event(0), None)) == 200 + 1
    runner.close()


def test_cancelling_twice_or_after_the_end_does_no_harm() -> None:
    _, runner = make_service(FakeDecoder())
    runner.start()
    job = runner.submit([request("a", 2)])
    first = job.next_event(timeout=60)
    assert first
    assert isinstance(first[1], TextDelta)
    drain(job)
    job.cancel()
    job.cancel()
    assert drain(runner.submit([request("b", 2)]))[0].reason == "length"
    runner.close()
