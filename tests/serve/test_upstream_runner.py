"""Requests sent to upstreams that die, are slow, answer nonsense, or come and go."""

from __future__ import annotations

import logging
import threading

import pytest

from serve.request import SamplingParams, StopRules
from serve.runner.generation import stays
from serve.upstream import retry
from serve.upstream.health import CONSECUTIVE_FAILURES
from serve.upstream.upstream_runner import UpstreamRunner
from serve.upstream.upstream_set import UpstreamSet
from tests.support.engines import (
    EngineExchange,
    FakeEngine,
    always,
    completes,
    continued,
    engines,
    llama_end,
    llama_event,
    llama_routes,
)
from tests.support.fakes import FakeDecoder
from tests.support.upstreams import asked, begin, runner_of, taken
from turbopilot.base.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Superseded,
    UpstreamFailed,
)

NONSENSE = {
    "html": always(b"<html>It works!</html>"),
    "other JSON": always({"hello": "world"}),
    "an event of another API": lambda e: (e.begin(), e.event({"choices": []}), e.end()),
    "an early end": lambda e: (e.begin(), e.event(llama_event("")), e.end()),
    "status 500": always({"error": "no"}, 500),
    "status 404": always({"error": "no"}, 404),
    "busy": always({"error": {"message": "the queue is full"}}, 503),
    "an error in the stream": lambda e: (e.begin(), e.event({"error": {"message": "no"}}), e.end()),
    "a broken connection": lambda e: e.break_off(),
    "no text but an object": lambda e: (e.begin(), e.event(llama_event({}, [1])), e.end()),  # type: ignore[arg-type]
}


def expected(prompt: str, n: int = 4) -> str:
    start = sum(prompt.encode())
    return "".join(chr(97 + (start + i) % 26) for i in range(n))


class Held:
    """An answer that sends `text` and then waits for `go`; `began` counts the requests that have got so far."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.gone = threading.Semaphore(0)

    def __call__(self, e: EngineExchange) -> None:
        if self.text:
            e.begin()
            e.event(llama_event(self.text))
        self.began.release()
        assert self.go.wait(60)
        if self.text:
            e.event(llama_end())
            e.end()
        else:
            completes(e)

    def until_gone(self, e: EngineExchange) -> None:
        """Send the text, and wait until the client closes the connection."""
        e.begin()
        e.event(llama_event(self.text))
        self.began.release()
        if e.is_gone():
            self.gone.release()


def wait(semaphore: threading.Semaphore) -> None:
    assert semaphore.acquire(timeout=60)


def test_text_and_counts_of_an_upstream_arrive() -> None:
    with engines(llama_routes()) as (engine,), runner_of([engine]) as runner:
        generation = begin(runner, asked("abc"))
        text, end = taken(generation)
        assert text == expected("abc")
        assert end.reason == "length"
        assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)
        assert end.usage.cached_tokens == 2
        assert end.usage.prompt_seconds == 0.005
        assert end.usage.queue_seconds is not None
        sent = engine.asked("/completion")[0].body
        assert sent["prompt"] == list(b"abc")
        assert (sent["top_k"], sent["min_p"], sent["n_predict"]) == (0, 0.0, 4)
        assert runner.metrics.finished == {"length": 1}
        assert runner.metrics.generated_tokens == 4
        assert sum(runner.metrics.first_token_seconds.counts) == 1
        assert sum(runner.metrics.token_seconds.counts) == 3


def test_connection_is_used_again() -> None:
    with engines(llama_routes()) as (engine,), runner_of([engine]) as runner:
        for _ in range(5):
            assert taken(begin(runner, asked("x")))[0] == expected("x")
        assert len(engine._server.connections) <= 2


@pytest.mark.parametrize("fault", NONSENSE)
def test_request_that_fails_at_one_upstream_is_served_by_another(fault: str) -> None:
    with engines(llama_routes(NONSENSE[fault]), llama_routes()) as both, runner_of(both) as runner:
        for i in range(8):  # consistent hashing sends some of them to the bad one first
            prompt = f"{i}" * 70
            assert taken(begin(runner, asked(prompt)))[0] == expected(prompt)
        assert both[0].asked("/completion")
        assert runner.metrics.finished == {"length": 8}
        assert runner.upstreams.n_retries > 0


@pytest.mark.parametrize("fault", [f for f in NONSENSE if f != "busy"])
def test_error_of_the_only_upstream_names_it(fault: str) -> None:
    with engines(llama_routes(NONSENSE[fault])) as (engine,), runner_of([engine]) as runner:
        with pytest.raises(UpstreamFailed, match=str(engine.address.port)):
            begin(runner, asked("x"), whole=True).collect()
        assert runner.metrics.finished == {"error": 1}


def test_ejection_and_return_of_an_upstream_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now, is_bad = [0.0], [True]
    bad = always({"error": "no"}, 500)
    with engines(llama_routes(lambda e: bad(e) if is_bad[0] else completes(e))) as (engine,):
        upstreams = UpstreamSet([engine.address], FakeDecoder(), clock=lambda: now[0])
        upstreams.check()
        runner = UpstreamRunner(upstreams, FakeDecoder(), 256)
        for _ in range(CONSECUTIVE_FAILURES):
            assert taken(begin(runner, asked("x")))[1].reason == "error"
        now[0], is_bad[0] = 100.0, False
        assert taken(begin(runner, asked("x")))[1].reason == "length"
        runner.close()
    name = engine.address.name
    said = [r.getMessage() for r in caplog.records if f"upstream {name}" in r.getMessage()]
    assert said[-2:] == [
        f"upstream {name}: ejected, as it fails or is slow",
        f"upstream {name}: back, as it has answered",
    ]


def test_request_that_every_upstream_would_reject_is_not_tried_again() -> None:
    rejects = always({"error": {"message": "too long"}}, 400)
    with engines(llama_routes(rejects), llama_routes(rejects)) as both, runner_of(both) as runner:
        with pytest.raises(InvalidRequest, match="too long"):
            begin(runner, asked("x"), whole=True).collect()
        assert sum(len(e.asked("/completion")) for e in both) == 1


def test_nothing_that_can_be_served_is_lost_and_nothing_streamed_is_doubled() -> None:
    """Let one of three upstreams die, one answer only after that, and one answer nonsense."""
    streaming, slow = Held("ab"), Held()

    def dying(e: EngineExchange) -> None:
        (streaming if e.body["prompt"][0] == ord("!") else completes)(e)

    faulty = (llama_routes(dying), llama_routes(slow), llama_routes(NONSENSE["html"]))
    with engines(*faulty) as three, runner_of(three, slots=1) as runner:
        dies, late, _ = three
        runner.upstreams.replace([dies.url])
        runner.upstreams.check()
        streamed = [begin(runner, asked("!" + "s" * i)) for i in range(3)]
        for _ in streamed:
            wait(streaming.began)
        runner.upstreams.replace([e.url for e in three])
        runner.upstreams.check()
        prompts = [f"{i:02}" * 40 for i in range(30)]
        others = [begin(runner, asked(p)) for p in prompts]
        wait(slow.began)
        dies.die()
        slow.go.set()
        for prompt, generation in zip(prompts, others, strict=True):
            text, end = taken(generation)
            assert (text, end.error) == (expected(prompt), None)
        for generation in streamed:
            text, end = taken(generation)
            assert text == "ab"
            assert isinstance(end.error, UpstreamFailed)
        assert runner.n_open == 0
        served = {tuple(e.body["prompt"]) for e in late.asked("/completion")}
        assert not any(p[0] == ord("!") for p in served), "a streamed request was sent again"
        streaming.go.set()


def test_answer_in_one_piece_is_tried_again_after_a_part_of_it_was_lost() -> None:
    """Unlike a stream: the client has got nothing of it."""

    def breaks(e: EngineExchange) -> None:
        e.begin()
        e.event(llama_event("lost"))
        e.break_off()

    with engines(llama_routes(breaks), llama_routes()) as both, runner_of(both) as runner:
        for i in range(8):
            prompt = f"{i}" * 70
            answer = begin(runner, asked(prompt), whole=True).collect()
            assert answer.choices[0].text == expected(prompt)
        assert both[0].asked("/completion")


def test_upstream_without_a_first_token_in_time_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry.Tries, "_limit", lambda self, name: 0.05)
    hangs = Held()
    with engines(llama_routes(hangs), llama_routes()) as both, runner_of(both) as runner:
        for i in range(6):
            prompt = f"{i}" * 70
            assert taken(begin(runner, asked(prompt)))[0] == expected(prompt)
        assert both[0].asked("/completion")
        hangs.go.set()


def test_cancelled_request_closes_its_connection() -> None:
    held = Held("a")
    with engines(llama_routes(held.until_gone)) as (engine,), runner_of([engine]) as runner:
        generation = begin(runner, asked("x", 100))
        wait(held.began)
        assert generation.next_event(60)
        generation.cancel()
        wait(held.gone)
        assert taken(generation)[1].reason == "cancelled"
        assert runner.metrics.finished == {"cancelled": 1}


def test_request_can_be_cancelled_before_its_first_token() -> None:
    held = Held()
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        generation = begin(runner, asked("x", 100))
        wait(held.began)
        generation.cancel()
        assert taken(generation)[1].reason == "cancelled"
        held.go.set()


def test_newer_request_of_a_session_ends_the_earlier_one() -> None:
    held = Held()
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        first = begin(runner, asked("x", supersedes="s"), whole=True)
        wait(held.began)
        second = begin(runner, asked("y", supersedes="s"))
        with pytest.raises(Superseded):
            first.collect()
        held.go.set()
        assert taken(second)[0] == expected("y")
        assert runner.metrics.finished == {"superseded": 1, "length": 1}


def test_all_choices_end_if_one_is_cancelled() -> None:
    held = Held("a")
    with engines(llama_routes(held.until_gone)) as (engine,), runner_of([engine]) as runner:
        generation = begin(runner, asked("x", 9), asked("x", 9), whole=True)
        wait(held.began)
        wait(held.began)
        generation.cancel()
        reasons = []
        while not generation.is_finished:
            item = generation.next_event(60)
            assert item
            reasons.append(getattr(item[1], "reason", ""))
        assert reasons.count("cancelled") == 2


def test_deadline_returns_the_text_so_far() -> None:
    held = Held("ab")
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        text, end = taken(begin(runner, asked("x", 100, deadline=0.3)))
        assert (text, end.reason) == ("ab", "length")
        held.go.set()


def test_deadline_without_a_token_is_an_error() -> None:
    held = Held()
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        with pytest.raises(DeadlineExceeded):
            begin(runner, asked("x", deadline=0.1), whole=True).collect()
        held.go.set()


def test_stop_string_ends_the_request_at_the_upstream() -> None:
    held = Held("one two STOP three")
    with engines(llama_routes(held.until_gone)) as (engine,), runner_of([engine]) as runner:
        rules = StopRules(("STOP",))
        text, end = taken(begin(runner, asked("x", 100, stop=rules)))
        assert (text, end.reason, end.stop_string) == ("one two ", "stop", "STOP")
        wait(held.gone)


def test_queue_has_a_limit() -> None:
    held = Held()
    with (
        engines(llama_routes(held)) as (engine,),
        runner_of([engine], slots=1, max_queue=1) as runner,
    ):
        running = [begin(runner, asked("x")) for _ in range(2)]
        with pytest.raises(Overloaded, match="queue is full"):
            begin(runner, asked("x"))
        assert runner.n_refused == 1
        held.go.set()
        assert [taken(g)[0] for g in running] == [expected("x")] * 2


def test_draining_runner_finishes_its_requests_and_refuses_others() -> None:
    held = Held()
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        running = begin(runner, asked("x"))
        runner.drain()
        with pytest.raises(Overloaded, match="shutting down"):
            begin(runner, asked("x"))
        held.go.set()
        assert taken(running)[0] == expected("x")
        assert runner.wait_until_idle(60)


def test_stop_cancels_all_requests() -> None:
    held = Held()
    with engines(llama_routes(held)) as (engine,), runner_of([engine]) as runner:
        running = [begin(runner, asked("x"), whole=True) for _ in range(3)]
        wait(held.began)
        runner.request_stop()
        assert runner.wait_until_idle(60)
        for generation in running:
            with pytest.raises(Overloaded, match="shutting down"):
                generation.collect(stays)
        held.go.set()


def test_request_goes_to_an_upstream_with_the_features_it_needs() -> None:
    plain = llama_routes()
    plain["/v1/models"] = always({"data": [{"id": "m", "owned_by": "someone"}]})
    schema = SamplingParams(schema='{"type": "object"}')
    with engines(plain, llama_routes()) as (generic, able), runner_of([generic, able]) as runner:
        for i in range(6):
            begin(runner, asked(f"{i}" * 70, sampling=schema), whole=True).collect()
        assert len(able.asked("/completion")) == 6
        runner.upstreams.replace([generic.url])
        runner.upstreams.check()
        with pytest.raises(InvalidRequest, match="json_schema") as caught:
            begin(runner, asked("x", sampling=schema))
        assert caught.value.param == "json_schema"


def test_too_long_request_is_refused() -> None:
    with engines(llama_routes(n_ctx=64)) as (engine,), runner_of([engine], n_ctx=128) as runner:
        with pytest.raises(ContextLengthExceeded, match="128"):
            begin(runner, asked("x" * 126))
        with pytest.raises(ContextLengthExceeded, match="64"):
            begin(runner, asked("x" * 62))
        assert taken(begin(runner, asked("x" * 60)))[0] == expected("x" * 60)


def test_upstreams_are_replaced_while_requests_run() -> None:
    held = Held()
    with engines(llama_routes(held), llama_routes()) as (old, new), runner_of([old]) as runner:
        running = begin(runner, asked("x"))
        wait(held.began)
        runner.upstreams.replace([new.url])
        runner.upstreams.check()
        assert taken(begin(runner, asked("y")))[0] == expected("y")
        held.go.set()
        assert taken(running)[0] == expected("x"), "the running request was lost"
        assert [s.name for s in runner.upstreams.statuses] == [new.address.name]


def test_without_upstreams_requests_are_refused_with_the_reason() -> None:
    with engines(llama_routes()) as (engine,), runner_of([engine]) as runner:
        engine.die()
        runner.upstreams.check()
        assert "no upstream is available" in runner.watch.stalled
        with pytest.raises(Overloaded, match=str(engine.address.port)):
            begin(runner, asked("x"))


def test_upstream_that_comes_back_gets_requests_again() -> None:
    up = threading.Event()
    routes = llama_routes()
    routes["/health"] = lambda e: e.reply({}, 200 if up.is_set() else 503)
    with engines(routes) as (engine,), runner_of([engine]) as runner:
        runner.upstreams.check()
        assert runner.upstreams.statuses[0].state == "down"
        assert runner.upstreams.statuses[0].reason == "/health: status 503"
        up.set()
        runner.upstreams.check()
        assert taken(begin(runner, asked("x")))[0] == expected("x")


def test_requests_of_a_session_stay_at_one_upstream() -> None:
    with engines(*[llama_routes()] * 3) as three, runner_of(three) as runner:
        for i in range(5):
            taken(begin(runner, asked(f"{i}" * 70, supersedes="me")))
        assert sorted(len(e.asked("/completion")) for e in three) == [0, 0, 5]


def test_a_random_seed_makes_the_seeds_repeatable() -> None:
    def seeds(engine: FakeEngine) -> list[int]:
        engine.seen.clear()
        with runner_of([engine], random_seed=7) as runner:
            for _ in range(3):
                taken(begin(runner, asked("x")))
        return [e.body["seed"] for e in engine.asked("/completion")]

    with engines(llama_routes()) as (engine,):
        first = seeds(engine)
        assert first == seeds(engine)
        assert len(set(first)) == 3


def test_engine_gets_the_clients_seed() -> None:
    with engines(llama_routes()) as (engine,), runner_of([engine]) as runner:
        sampling = SamplingParams(seed=11)
        taken(begin(runner, asked("x", sampling=sampling)))
        taken(begin(runner, asked("x")))
        sent = [e.body.get("seed") for e in engine.asked("/completion")]
        assert sent == [11, None]
        assert continued(engine.asked("/completion")[0]) == expected("x")
