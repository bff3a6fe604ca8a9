"""Requests of low priority never delay others, and continue without repeating anything."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decoder import BatchItem
from serve.engine import Emitted, Engine, EngineOptions
from serve.request import (
    Event,
    Finished,
    GenerationRequest,
    PromptScored,
    SamplingParams,
    TextDelta,
)
from serve.runner.compute_lock import BETWEEN, ComputeLock
from serve.settings import MOST_LOW
from tests.serve.test_engine_faults import CODES, Clock
from tests.serve.test_engine_step import expected, last, request, run, spread, text_of
from tests.serve.test_runner import drain, running
from tests.support.engines import EngineExchange, completes, engines, listed, llama_routes
from tests.support.fakes import FakeDecoder
from tests.support.serving import WatchedRunner, ask, running_server, wait
from tests.support.upstreams import asked, begin, runner_of, taken
from turbopilot.base.errors import DeadlineExceeded, DecoderFailed, Overloaded, TurboPilotError


def low(text: str, max_tokens: int = 8) -> GenerationRequest:
    return replace(request(text, max_tokens), is_low=True)


def ended_in_order(engine: Engine) -> list[int]:
    """Run all requests and return their ids in the order in which they end."""
    ids = []
    while engine.has_work:
        ids += [i for i, e in engine.step() if isinstance(e, Finished)]
        engine.check_integrity()
    return ids


def steps(engine: Engine, n: int) -> list[Emitted]:
    return [e for _ in range(n) for e in engine.step()]


# At which step a request arrives, its prompt, and its number of tokens. Prompts of normal and low priority share no
# prefix, so that neither finds tokens of the other in the cache.
def jobs(letters: str) -> st.SearchStrategy[list[tuple[int, str, int]]]:
    one = st.tuples(
        st.integers(0, 40), st.text(letters, min_size=1, max_size=30), st.integers(0, 12)
    )
    return st.lists(one, min_size=1, max_size=5)


def played(
    engine: Engine, arrivals: list[tuple[int, int, GenerationRequest]]
) -> tuple[dict[int, list[Event]], dict[int, int]]:
    """Submit requests (step, id, request); return their events, and the step in which each ended."""
    events: dict[int, list[Event]] = defaultdict(list)
    ends: dict[int, int] = {}
    for step in range(5000):
        emitted = [e for at, i, r in arrivals if at == step for e in engine.submit(i, r)]
        emitted += engine.step()
        engine.check_integrity()
        for i, event in emitted:
            events[i].append(event)
            if isinstance(event, Finished):
                ends[i] = step
        if len(ends) == len(arrivals):
            break
    assert not engine.has_work
    assert all(last(e) for e in events.values())
    return events, ends


@settings(deadline=None, max_examples=150)
@given(
    normal=jobs("ab"),
    others=jobs("cd"),
    n_seq=st.integers(1, 4),
    is_split=st.booleans(),
    can_cut=st.booleans(),
)
def test_requests_take_equally_many_steps_with_and_without_low_ones(
    normal: list[tuple[int, str, int]],
    others: list[tuple[int, str, int]],
    n_seq: int,
    is_split: bool,
    can_cut: bool,
) -> None:
    first = [(at, i, request(text, n)) for i, (at, text, n) in enumerate(normal)]
    second = [(at, 100 + i, low(text, n)) for i, (at, text, n) in enumerate(others)]

    def play(
        arrivals: list[tuple[int, int, GenerationRequest]],
    ) -> tuple[dict[int, list[Event]], dict[int, int]]:
        n_cells = 64 * n_seq if is_split else 64
        decoder = FakeDecoder(n_ctx=64, n_cells=n_cells, n_seq=n_seq, n_batch=64, can_cut=can_cut)
        # Without shared prefixes, a request's steps do not depend on what is cached.
        options = EngineOptions(n_slots=n_seq, drafts=False, shares=False)
        return played(Engine(decoder, options, lambda: 0.0), arrivals)

    alone, ends_alone = play(first)
    events, ends = play([*first, *second])
    for i, (_, text, n) in enumerate(normal):
        assert text_of(events[i]) == text_of(alone[i]) == expected(text, n)
        assert ends[i] == ends_alone[i]
    for i, (_, text, n) in enumerate(others, 100):
        assert text_of(events[i]) == expected(text, n)
        assert last(events[i]).usage.completion_tokens == n


@settings(deadline=None, max_examples=150)
@given(
    sent=st.lists(
        st.tuples(
            st.integers(0, 40),
            st.text("ab", min_size=1, max_size=30),
            st.integers(0, 12),
            st.booleans(),
        ),
        min_size=1,
        max_size=10,
    ),
    failures=st.lists(st.sampled_from([None, None, None, *CODES]), max_size=60),
    n_seq=st.integers(1, 4),
    is_split=st.booleans(),
    can_cut=st.booleans(),
    drafts=st.booleans(),
    stored=st.sampled_from([0, 600, 10**6]),
)
def test_every_request_ends_with_its_text_whatever_the_priorities(
    sent: list[tuple[int, str, int, bool]],
    failures: list[type[TurboPilotError] | None],
    n_seq: int,
    is_split: bool,
    can_cut: bool,
    drafts: bool,
    stored: int,
) -> None:
    def fail(_: Sequence[BatchItem]) -> TurboPilotError | None:
        code = failures.pop() if failures else None
        return code("boom") if code else None

    n_cells = 64 * n_seq if is_split else 64
    decoder = FakeDecoder(
        n_ctx=64, n_cells=n_cells, n_seq=n_seq, n_batch=16, can_cut=can_cut, fail=fail
    )
    options = EngineOptions(n_slots=n_seq, drafts=drafts, prefix_cache_bytes=stored)
    arrivals = [
        (at, i, replace(request(text, n), is_low=is_low))
        for i, (at, text, n, is_low) in enumerate(sent)
    ]
    events, _ = played(Engine(decoder, options), arrivals)
    for i, (_, text, n, _) in enumerate(sent):
        if last(events[i]).error is None:
            assert text_of(events[i]) == expected(text, n)
        else:
            assert expected(text, n).startswith(text_of(events[i]))


@pytest.mark.parametrize("can_cut", [True, False])
@pytest.mark.parametrize("n_seq", [1, 3])
def test_low_request_gives_way_and_goes_on_without_computing_anything_again(
    n_seq: int, can_cut: bool
) -> None:
    decoder = FakeDecoder(n_seq=n_seq, n_batch=64, can_cut=can_cut)
    stored = 10**6 if n_seq == 1 else 0  # its tokens are kept in the prefix cache, or in its slot
    engine = Engine(decoder, EngineOptions(n_slots=n_seq, drafts=False, prefix_cache_bytes=stored))
    seen = engine.submit(1, low("c" * 40, 20))
    while len(text_of([e for _, e in seen])) < 5:
        seen += engine.step()
    assert text_of([e for _, e in seen]) == expected("c" * 40, 5)
    seen += engine.submit(2, request("ab", 3))
    for n in (2, 1, 1):
        decoder.batches.clear()
        now = engine.step()
        assert {i for i, _ in now} == {2}
        assert decoder.batches == [n]
        seen += now
    decoder.batches.clear()
    events = run(engine, seen)
    assert text_of(events[1]) == expected("c" * 40, 20)
    assert text_of(events[2]) == expected("ab", 3)
    assert decoder.batches == [1] * 15
    assert last(events[1]).usage.cached_tokens == 0  # those of its own are not counted


def test_request_does_not_wait_for_a_low_ones_prefix() -> None:
    decoder = FakeDecoder(n_seq=2, n_batch=64, n_cells=512)
    engine = Engine(decoder, EngineOptions(n_slots=2, drafts=False))
    text = "".join(chr(97 + i % 7) for i in range(150))
    engine.submit(1, low(text, 3))
    engine.step()
    engine.submit(2, request(text + "xyz", 2))
    events = (
        engine.step()
    )  # a piece of the low one's prompt was computed, and is not computed again
    assert decoder.batches == [64, 64]
    events += ((i, e) for i, e in steps(engine, 2))
    assert decoder.batches == [64, 64, 153 - 128, 1]
    by_request = run(engine, events)
    assert last(by_request[2]).usage.cached_tokens == 64
    assert text_of(by_request[2]) == expected(text + "xyz", 2)
    assert text_of(by_request[1]) == expected(text, 3)


def test_full_pool_of_low_requests_has_room_for_a_normal_one() -> None:
    decoder = FakeDecoder(n_seq=4, n_ctx=64, n_batch=32)
    engine = Engine(decoder, EngineOptions(n_slots=4, drafts=False))
    events = [e for i in range(3) for e in engine.submit(i, low("cd"[i % 2] * (i + 3), 10))]
    events += steps(engine, 4)
    events += engine.submit(9, request("ab", 62))  # needs every cell
    events += steps(engine, 62)
    assert [i for i, e in events if isinstance(e, Finished)] == [9]
    by_request = run(engine, events)
    for i in range(3):
        assert text_of(by_request[i]) == expected("cd"[i % 2] * (i + 3), 10)


def test_warm_up_comes_after_completions_and_before_low_requests() -> None:
    engine = Engine(FakeDecoder(n_seq=4, n_batch=8, n_cells=1024), EngineOptions(n_slots=4))
    for i, sent in enumerate(
        (low("l" * 20, 3), low("m" * 20, 0), request("w" * 20, 0), request("r" * 9, 3))
    ):
        engine.submit(i, sent)
        engine.step()
    assert ended_in_order(engine)[:2] == [3, 2]


def test_low_requests_run_in_the_order_of_their_arrival() -> None:
    engine = Engine(FakeDecoder(), EngineOptions(drafts=False))
    for i in range(3):
        engine.submit(i, low("cde"[i] * 9, 9))
    engine.step()
    engine.submit(9, request("a", 2))
    assert ended_in_order(engine) == [9, 0, 1, 2]


def test_waiting_low_request_can_be_cancelled() -> None:
    engine = Engine(FakeDecoder(n_seq=2, n_cells=512), EngineOptions(n_slots=2))
    engine.submit(1, low("c" * 9, 9))
    engine.step()
    engine.submit(2, request("a" * 9, 9))
    engine.step()
    ((_, end),) = engine.cancel(1)
    assert last([end]).reason == "cancelled"
    assert last([end]).usage.completion_tokens == 1
    assert ended_in_order(engine) == [2]


def test_deadline_ends_a_low_request_that_waits() -> None:
    clock = Clock()
    engine = Engine(FakeDecoder(), EngineOptions(drafts=False), clock)
    seen = engine.submit(1, replace(low("c", 9), deadline=5.0))
    seen += steps(engine, 3)
    seen += engine.submit(2, replace(low("d", 9), deadline=5.0))
    seen += engine.submit(3, request("a", 100)) + engine.step()
    clock.now += 6
    seen += engine.step()
    ended = {i: e for i, e in seen if isinstance(e, Finished)}
    assert ended[1].reason == "length"
    assert text_of([e for i, e in seen if i == 1]) == expected("c", 3)
    assert isinstance(ended[2].error, DeadlineExceeded)
    assert 3 not in ended


def test_choices_of_a_low_request_go_on_exactly() -> None:
    hot = SamplingParams(temperature=1.0, top_p=1.0, seed=7)
    choices = [
        GenerationRequest(
            tuple(b"abcdabcd" * 5), 30, sampling=replace(hot, stream=i), n_logprobs=1, is_low=True
        )
        for i in range(3)
    ]

    def texts(*, interrupted: bool) -> list[list[tuple[bytes, float]]]:
        decoder = FakeDecoder(row=spread, n_seq=4, n_batch=64)
        engine = Engine(decoder, EngineOptions(n_slots=4, prefix_cache_bytes=10**6))
        events = [e for i, r in enumerate(choices) for e in engine.submit(i, r)]
        for i in range(12):
            events += steps(engine, 2)
            if interrupted:
                engine.submit(100 + i, request("d" * 50, 3))
                events += steps(engine, 4)
        by_request = run(engine, events)
        return [
            [
                (t.token.data, t.token.logprob)
                for e in by_request[i]
                if isinstance(e, TextDelta)
                for t in e.tokens
            ]
            for i in range(3)
        ]

    undisturbed = texts(interrupted=False)
    assert [len(t) for t in undisturbed] == [30] * 3
    assert len({repr(t) for t in undisturbed}) == 3
    assert texts(interrupted=True) == undisturbed


def test_scored_prompt_of_a_low_request_is_reported_once() -> None:
    engine = Engine(FakeDecoder(row=spread, n_batch=8))
    text = "abcdabcadbacdbacbd" * 2
    seen = engine.submit(1, replace(low(text, 2), n_logprobs=0, scores_prompt=True))
    seen += steps(engine, 2)
    engine.submit(2, request("dcba", 3))
    told = run(engine, seen)[1]
    scored = [t.token.id for e in told if isinstance(e, PromptScored) for t in e.tokens]
    assert bytes(scored).decode() == text
    assert last(told).usage.completion_tokens == 2


def test_low_request_survives_a_lost_kv_cache_while_it_waits() -> None:
    lost: list[DecoderFailed] = []
    decoder = FakeDecoder(n_seq=2, n_cells=512, fail=lambda _: lost.pop() if lost else None)
    engine = Engine(decoder, EngineOptions(n_slots=2))
    seen = engine.submit(1, low("c" * 20, 9)) + steps(engine, 5)
    seen += engine.submit(2, request("a" * 20, 9)) + steps(engine, 2)
    lost.append(DecoderFailed("rebuilt"))
    events = run(engine, seen)
    assert decoder.n_rebuilt == 1
    assert text_of(events[1]) == expected("c" * 20, 9)
    assert isinstance(last(events[2]).error, DecoderFailed)


def test_looking_ahead_waits_for_low_requests_and_goes_on() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder, EngineOptions(looks_ahead=True, drafts=False))
    run(engine, engine.submit(1, request("import os", 6)))
    engine.look_ahead()
    engine.step()
    events = engine.submit(2, low("c" * 9, 4))
    assert {i for i, _ in steps(engine, 4)} == {2}
    assert run(engine, events) == {}  # the rest of what is computed ahead
    assert engine.metrics.ahead_tokens == 6
    assert not engine.can_look_ahead  # nothing is computed ahead for a low request
    decoder.batches.clear()
    taken = "import os" + expected("import os", 6)
    assert text_of(run(engine, engine.submit(3, request(taken, 6)))[3]) == expected(taken, 6)
    assert decoder.batches == []


def test_low_request_does_not_replace_the_completion_to_look_ahead_from() -> None:
    engine = Engine(FakeDecoder(n_batch=64), EngineOptions(looks_ahead=True))
    run(engine, engine.submit(1, request("import os", 6)))
    run(engine, engine.submit(2, low("c" * 9, 4)))
    assert engine.can_look_ahead
    engine.look_ahead()
    run(engine)
    taken = "import os" + expected("import os", 6)
    before = engine.metrics.steps
    run(engine, engine.submit(3, request(taken, 6)))
    assert engine.metrics.steps == before


def test_normal_requests_are_not_refused_because_of_low_ones() -> None:
    gate = threading.Semaphore(0)
    with running(FakeDecoder(gate=gate), max_open=4) as runner:
        jobs = [runner.ask([low("c", 1)]) for _ in range(MOST_LOW)]
        with pytest.raises(Overloaded, match=f"{MOST_LOW} waiting or running with low priority"):
            runner.ask([low("c", 1)])
        jobs += [runner.ask([request("a", 1)]) for _ in range(4)]
        with pytest.raises(Overloaded, match="4 waiting or running"):
            runner.ask([request("a", 1)])
        gate.release(100)
        assert [drain(job)[0].reason for job in jobs] == ["length"] * (MOST_LOW + 4)
        jobs = [runner.ask([low("c", 1)] * MOST_LOW), runner.ask([request("a", 1)] * 4)]
        for job in jobs:
            drain(job)


def test_low_request_waits_for_another_models_requests() -> None:
    now, looked = 0.0, threading.Semaphore(0)
    turns = ComputeLock(lambda: now)
    decoders = [FakeDecoder(), FakeDecoder()]
    one, two = (WatchedRunner(Engine(d), compute_lock=turns) for d in decoders)
    expire = two.engine.expire

    def counted() -> list[Emitted]:
        looked.release()
        return expire()

    two.engine.expire = counted  # type: ignore[method-assign]
    for runner in (one, two):
        runner.start()
    try:
        drain(one.ask([request("a", 3)]))
        job = two.ask([low("c", 3)])
        wait(looked)
        wait(looked)
        assert decoders[1].batches == []
        assert drain(two.ask([request("d", 3)]))[0].reason == "length"  # equal rights
        now = BETWEEN * 2
        assert drain(job)[0].reason == "length"
    finally:
        for runner in (one, two):
            runner.close()


@pytest.mark.parametrize(("value", "is_low"), [("low", True), ("normal", False), ("", False)])
def test_header_sets_the_priority(value: str, is_low: bool) -> None:
    with running_server(FakeDecoder()) as (server, runner):
        body = {"prompt": "x", "max_tokens": 2, "n": 2}
        headers = {"X-TurboPilot-Priority": value} if value else {}
        assert ask(server.port, "POST", "/v1/completions", body, headers)[0] == 200
        assert [r.is_low for r in runner.seen] == [is_low] * 2


@pytest.mark.parametrize("value", ["LOW", "high", "0", "low, low", "l\xf6w"])
def test_unknown_priority_is_rejected(value: str) -> None:
    with running_server(FakeDecoder()) as (server, runner):
        headers = {"X-TurboPilot-Priority": value}
        status, _, data = ask(server.port, "POST", "/v1/completions", {"prompt": "x"}, headers)
        assert status == 400
        assert json.loads(data)["error"]["param"] == "X-TurboPilot-Priority"
        assert runner.seen == []


@pytest.mark.parametrize(("owner", "received"), [("turbopilot", "low"), ("llamacpp", None)])
def test_priority_is_sent_to_upstreams_that_know_it(owner: str, received: str | None) -> None:
    routes = {**llama_routes(), "/v1/models": listed(owner)}
    with engines(routes) as (engine,), runner_of([engine]) as runner:
        assert taken(begin(runner, asked("abc", is_low=True)))[1].reason == "length"
        assert taken(begin(runner, asked("abc")))[1].reason == "length"
        sent = [e.headers.get("X-TurboPilot-Priority") for e in engine.asked("/completion")]
        assert sent == [received, None]


def test_low_requests_do_not_fill_a_fronts_queue() -> None:
    go = threading.Event()

    def held(e: EngineExchange) -> None:
        assert go.wait(60)
        completes(e)

    with (
        engines(llama_routes(held, slots=1)) as (engine,),
        runner_of([engine], max_queue=1) as runner,
    ):
        jobs = [begin(runner, asked("c", is_low=True)) for _ in range(MOST_LOW)]
        jobs += [begin(runner, asked("a")) for _ in range(2)]
        for is_low in (True, False):
            with pytest.raises(Overloaded, match="the queue is full"):
                begin(runner, asked("a", is_low=is_low))
        go.set()
        assert {taken(job)[1].reason for job in jobs} == {"length"}
        assert runner.n_low == 0
