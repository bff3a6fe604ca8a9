"""After any failure, each request ends once, and only the requests that caused it end with an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decoder import BatchItem
from serve.engine import Emitted, Engine, EngineOptions
from serve.request import Event, Finished, GenerationRequest, SamplingParams
from tests.serve.test_engine_step import GREEDY, expected, last, request, run, text_of
from tests.support.fakes import FakeDecoder
from turbopilot.base.errors import (
    BadBatch,
    DeadlineExceeded,
    DecodeAborted,
    DecoderFailed,
    NoKvSlot,
    ServeError,
    TurboPilotError,
)

CODES = (NoKvSlot, DecodeAborted, BadBatch, DecoderFailed)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def two_slots(
    fail: Callable[[Sequence[BatchItem]], TurboPilotError | None], **options: int
) -> tuple[Engine, FakeDecoder]:
    decoder = FakeDecoder(n_seq=2, n_cells=512, fail=fail)
    return Engine(decoder, EngineOptions(n_slots=2)), decoder


@pytest.mark.parametrize("code", [DecodeAborted, BadBatch, DecoderFailed])
def test_requests_survive_a_transient_failure(code: type[TurboPilotError]) -> None:
    at = iter(range(100))
    engine, decoder = two_slots(lambda _: code("boom") if next(at) == 2 else None)
    engine.submit(1, request("aaaaaa", 6))
    engine.submit(2, request("bbbbbb", 6))
    events = run(engine)
    assert text_of(events[1]) == expected("aaaaaa", 6)
    assert text_of(events[2]) == expected("bbbbbb", 6)
    assert decoder.n_rebuilt == (code is DecoderFailed)
    assert engine.metrics.failures == 1


def test_requests_are_batched_again_after_each_ran_alone() -> None:
    at = iter(range(100))
    engine, _ = two_slots(lambda _: BadBatch("boom") if next(at) == 2 else None)
    engine.submit(1, request("aaaaaa", 9))
    engine.submit(2, request("bbbbbb", 9))
    sizes = []
    while engine.has_work:
        before = engine.metrics.batch_sequences
        engine.step()
        sizes.append(engine.metrics.batch_sequences - before)
    assert sizes == [2, 2, 0, 1, 1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("code", CODES)
def test_only_the_request_that_causes_failures_ends(code: type[TurboPilotError]) -> None:
    """Fail every batch that contains a token of the faulty request."""

    def fail(batch: Sequence[BatchItem]) -> TurboPilotError | None:
        return code("boom") if any(item.token == ord("!") for item in batch) else None

    engine, _ = two_slots(fail)
    engine.submit(1, request("aaaaaaaa", 6))
    engine.submit(2, request("bbbbbb!bb", 6))
    events = run(engine)
    assert isinstance(last(events[2]).error, code)
    assert text_of(events[1]) == expected("aaaaaaaa", 6)


def test_decoder_that_always_fails_ends_all_requests() -> None:
    engine, decoder = two_slots(lambda _: DecoderFailed("boom"))
    for i in range(5):
        engine.submit(i, request("abc", 3))
    events = run(engine)
    assert all(isinstance(last(events[i]).error, DecoderFailed) for i in range(5))
    assert decoder.n_rebuilt <= 10


def test_failed_rebuild_of_the_context_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, decoder = two_slots(lambda _: DecoderFailed("boom"))

    def rebuild() -> None:
        raise ServeError("no memory")

    monkeypatch.setattr(decoder, "rebuild", rebuild)
    engine.submit(1, request("abc", 3))
    with pytest.raises(ServeError, match="no memory"):
        run(engine)


def test_engine_works_after_a_reset() -> None:
    engine, decoder = two_slots(lambda _: None)
    engine.submit(1, request("abc", 3))
    engine.step()
    events = engine.reset(DecoderFailed("the engine failed"))
    assert [(i, type(last([e]).error)) for i, e in events] == [(1, DecoderFailed)]
    assert decoder.n_used == 0
    assert text_of(run(engine, engine.submit(2, request("abc", 3)))[2]) == expected("abc", 3)


def test_deadline_ends_a_request_with_its_text_or_an_error() -> None:
    clock = Clock()
    engine = Engine(FakeDecoder(), clock=clock)
    engine.submit(1, GenerationRequest(tuple(b"abc"), 100, sampling=GREEDY, deadline=5.0))
    engine.submit(2, GenerationRequest(tuple(b"abd"), 100, sampling=GREEDY, deadline=5.0))
    seen = engine.step()
    clock.now += 6
    seen += engine.step()
    ended = {i: e for i, e in seen if isinstance(e, Finished)}
    assert ended[1].reason == "length"
    assert ended[1].usage.completion_tokens >= 1
    assert isinstance(ended[2].error, DeadlineExceeded)  # it was queued all the time
    assert not engine.has_work
    assert engine.metrics.finished == {"deadline": 2}


def test_predict_time_ends_a_completion_after_a_whole_line() -> None:
    clock = Clock()

    def slow(history: Sequence[int]) -> int:
        clock.now += 1
        return ord("\n") if len(history) % 10 == 0 else ord("x")

    engine = Engine(FakeDecoder(slow), EngineOptions(drafts=False), clock=clock)
    sent = GenerationRequest(tuple(b"abc"), 100, sampling=GREEDY, predict_time=3.0)
    events = run(engine, engine.submit(1, sent))[1]
    assert text_of(events) == "xxxxxxx\n"
    assert last(events).reason == "length"


def test_newer_request_supersedes_one_of_the_same_session() -> None:
    engine = Engine(FakeDecoder(n_seq=2, n_cells=512), EngineOptions(n_slots=2))

    def named(text: str, name: str) -> GenerationRequest:
        return GenerationRequest(tuple(text.encode()), 5, sampling=GREEDY, supersedes=name)

    events = engine.submit(1, named("abc", "editor"))
    events += engine.submit(2, named("abc", "other"))
    events += engine.step()
    events += engine.submit(3, named("abcd", "editor"))
    events += run_all(engine)
    reasons = {i: e.reason for i, e in events if isinstance(e, Finished)}
    assert reasons == {1: "cancelled", 2: "length", 3: "length"}
    assert engine.metrics.finished == {"superseded": 1, "length": 2}


def run_all(engine: Engine) -> list[Emitted]:
    events = []
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    return events


@settings(deadline=None, max_examples=150)
@given(
    failures=st.lists(st.sampled_from([None, None, None, *CODES]), max_size=60),
    jumps=st.lists(st.sampled_from([-1e9, -5.0, 0.0, 0.01, 1.0, 1e9]), max_size=60),
    jobs=st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=20), st.integers(0, 10)),
        min_size=1,
        max_size=8,
    ),
    n_seq=st.integers(1, 4),
    is_split=st.booleans(),
)
def test_each_request_ends_once_despite_failures_and_clock_jumps(
    failures: list[type[TurboPilotError] | None],
    jumps: list[float],
    jobs: list[tuple[str, int]],
    n_seq: int,
    is_split: bool,
) -> None:
    clock = Clock()

    def fail(_: Sequence[BatchItem]) -> TurboPilotError | None:
        if jumps:
            clock.now += jumps.pop()
        code = failures.pop() if failures else None
        return code("boom") if code else None

    decoder = FakeDecoder(n_ctx=64, n_cells=64 * n_seq if is_split else 64, n_seq=n_seq, fail=fail)
    options = EngineOptions(n_slots=n_seq, prefix_cache_bytes=10_000)
    engine = Engine(decoder, options, clock=clock)
    events: list[tuple[int, Event]] = []
    for i, (prompt, n) in enumerate(jobs):
        events += engine.submit(
            i, GenerationRequest(tuple(prompt.encode()), n, sampling=GREEDY, deadline=100.0)
        )
        events += engine.step()
        engine.check_integrity()
    events += run_all(engine)
    ended = [i for i, e in events if isinstance(e, Finished)]
    assert sorted(ended) == list(range(len(jobs)))
    for i, (prompt, n) in enumerate(jobs):
        mine = [e for j, e in events if j == i]
        assert expected(prompt, n).startswith(text_of(mine))
        assert isinstance(mine[-1], Finished)


def test_ten_thousand_requests_leave_no_state_behind() -> None:
    """Cancel requests at random; afterwards only the cells of idle slots may be used."""
    import random

    rng = random.Random(0)
    decoder = FakeDecoder(n_ctx=48, n_cells=48, n_seq=4, n_batch=32)
    engine = Engine(decoder, EngineOptions(n_slots=4, prefix_cache_bytes=20_000))
    ended = 0
    for i in range(10_000):
        text = "".join(rng.choices("ab", k=rng.randint(1, 24)))
        events = engine.submit(
            i,
            GenerationRequest(
                tuple(text.encode()),
                rng.randint(0, 8),
                sampling=rng.choice([GREEDY, SamplingParams(temperature=1.0, top_p=1.0)]),
                supersedes=rng.choice(["", "", "one", "two"]),
            ),
        )
        if rng.random() < 0.5:
            events += engine.cancel(rng.randint(max(0, i - 5), i))
        events += engine.step()
        if i % 50 == 0:
            engine.check_integrity()
        ended += sum(isinstance(e, Finished) for _, e in events)
    ended += sum(isinstance(e, Finished) for _, e in run_all(engine))
    assert ended == 10_000
    assert sum(engine.metrics.finished.values()) == 10_000
    engine.check_integrity()
    assert decoder.n_used == engine.metrics.used_cells <= 48
    assert engine.metrics.stored_bytes <= 20_000
