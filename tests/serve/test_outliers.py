"""Ejection of upstreams that fail or are slow, their probes, and the retries of requests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.upstream.health import (
    CONSECUTIVE_FAILURES,
    EJECTION_SECONDS,
    FORGIVEN_AFTER,
    MAX_EJECTION_SECONDS,
    Outcome,
)
from serve.upstream.retry import MOST_TRIES, Tries, Try, may_retry
from serve.upstream.routing import RouteKey, Router, Upstream

ELSEWHERE = {Outcome.FAILED, Outcome.TIMED_OUT, Outcome.BUSY}


def router(*given: str) -> Router:
    return Router(Upstream(name, slots=1_000) for name in given)


def answer(of: Router, name: str, outcome: Outcome, now: float = 0.0, waited: float = 0.1) -> bool:
    probe = of.begin(name, now)
    of.end(name, outcome, now, waited, probe=probe)
    return probe


def fail(of: Router, name: str, times: int = CONSECUTIVE_FAILURES, now: float = 0.0) -> None:
    for _ in range(times):
        answer(of, name, Outcome.FAILED, now)


def picked(of: Router, now: float, n: int = 300) -> set[str | None]:
    return {of.pick(RouteKey(session=str(i)), now) for i in range(n)}


def state(of: Router, name: str, now: float) -> str:
    return next(s.state for s in of.states(now) if s.name == name)


def test_failures_in_a_row_eject() -> None:
    of = router(*"abc")
    fail(of, "b", CONSECUTIVE_FAILURES - 1)
    assert picked(of, 0.0) == {"a", "b", "c"}
    fail(of, "b", 1)
    assert picked(of, 0.0) == {"a", "c"}
    assert state(of, "b", 0.0) == "ejected"


def test_good_answer_ends_the_count_of_failures() -> None:
    of = router(*"ab")
    for _ in range(3):
        fail(of, "b", CONSECUTIVE_FAILURES - 1)
        answer(of, "b", Outcome.OK)
    assert picked(of, 0.0) == {"a", "b"}


@pytest.mark.parametrize("outcome", [Outcome.BUSY, Outcome.CANCELLED, Outcome.REJECTED, Outcome.OK])
def test_busy_cancelled_and_rejected_answers_do_not_eject(outcome: Outcome) -> None:
    of = router(*"ab")
    for _ in range(100):
        answer(of, "b", outcome)
    assert state(of, "b", 0.0) == "healthy"


def test_ejected_upstream_gets_one_probe_at_a_time() -> None:
    of = router(*"abc")
    fail(of, "b")
    later = EJECTION_SECONDS
    assert picked(of, later) == {"a", "b", "c"}
    assert of.begin("b", later)
    assert state(of, "b", later) == "probing"
    assert picked(of, later) == {"a", "c"}
    of.end("b", Outcome.OK, later, 0.1, probe=True)
    assert state(of, "b", later) == "healthy"


def test_failed_probes_double_the_ejection_up_to_a_limit() -> None:
    of, now = router(*"ab"), 0.0
    fail(of, "b")
    for n in range(1, 12):
        now += min(EJECTION_SECONDS * 2 ** (n - 1), MAX_EJECTION_SECONDS)
        assert answer(of, "b", Outcome.FAILED, now)
        seconds = next(s.retry_in for s in of.states(now) if s.name == "b")
        assert seconds == min(EJECTION_SECONDS * 2**n, MAX_EJECTION_SECONDS)


def test_many_good_answers_make_earlier_ejections_forgotten() -> None:
    of = router(*"ab")
    fail(of, "b")
    for _ in range(FORGIVEN_AFTER):
        answer(of, "b", Outcome.OK, EJECTION_SECONDS)
    fail(of, "b", now=9.0)
    assert next(s.retry_in for s in of.states(9.0) if s.name == "b") == EJECTION_SECONDS


def test_cancelled_probe_is_followed_by_another() -> None:
    of = router(*"ab")
    fail(of, "b")
    assert answer(of, "b", Outcome.CANCELLED, EJECTION_SECONDS)
    assert answer(of, "b", Outcome.OK, EJECTION_SECONDS)
    assert state(of, "b", EJECTION_SECONDS) == "healthy"


def test_answers_from_before_the_ejection_change_nothing() -> None:
    of = router(*"ab")
    for _ in range(3):
        of.begin("b", 0.0)
    fail(of, "b")
    assert of.begin("b", EJECTION_SECONDS)
    of.end("b", Outcome.FAILED, EJECTION_SECONDS, 1.0)
    of.end("b", Outcome.OK, EJECTION_SECONDS, 1.0)
    assert state(of, "b", EJECTION_SECONDS) == "probing"
    assert picked(of, EJECTION_SECONDS) == {"a"}


@given(st.integers(0, 2**32))
def test_ejected_upstreams_get_nothing_but_probes(seed: int) -> None:
    choose, of, now = random.Random(seed), router(*"abcd"), 0.0
    running: list[tuple[str, bool]] = []
    for _ in range(200):
        now += choose.random()
        if running and choose.random() < 0.5:
            name, probe = running.pop(choose.randrange(len(running)))
            outcome = Outcome.OK if name == "a" else choose.choice(list(Outcome))
            of.end(name, outcome, now, 0.1, probe=probe)
            continue
        found = of.pick(RouteKey(session=str(choose.randrange(9))), now)
        assert found is not None
        before = state(of, found, now)
        probe = of.begin(found, now)
        running.append((found, probe))
        assert probe == (before != "healthy")
    assert sum(s.in_flight for s in of.states(now)) == len(running)


def some_waits(of: Router, names: str, seconds: float = 0.2) -> None:
    for _ in range(20):
        for name in names:
            answer(of, name, Outcome.OK, waited=seconds)


def test_slow_upstream_is_ejected() -> None:
    of = router(*"abc")
    some_waits(of, "ab")
    for _ in range(CONSECUTIVE_FAILURES):
        answer(of, "c", Outcome.OK, waited=30.0)
    assert picked(of, 0.0) == {"a", "b"}


def test_upstream_that_clients_cancel_while_they_wait_for_it_is_ejected() -> None:
    of = router(*"abc")
    some_waits(of, "ab")
    for _ in range(CONSECUTIVE_FAILURES):
        answer(of, "c", Outcome.CANCELLED, waited=30.0)
    assert picked(of, 0.0) == {"a", "b"}


def test_equally_slow_upstreams_are_not_ejected() -> None:
    of = router(*"abc")
    some_waits(of, "abc", 30.0)
    assert picked(of, 0.0) == {"a", "b", "c"}


def test_nothing_is_slow_before_others_have_answered() -> None:
    of = router(*"abc")
    for _ in range(50):
        answer(of, "c", Outcome.OK, waited=30.0)
    assert picked(of, 0.0) == {"a", "b", "c"}
    assert of.patience("c") is None


def test_slow_upstream_is_used_if_all_others_are_gone() -> None:
    of = router(*"abc")
    some_waits(of, "ab")
    for _ in range(CONSECUTIVE_FAILURES):
        answer(of, "c", Outcome.OK, waited=30.0)
    fail(of, "a")
    fail(of, "b")
    assert picked(of, 0.0) == {"c"}


def test_no_upstream_is_left_if_all_failed() -> None:
    of = router(*"ab")
    fail(of, "a")
    fail(of, "b")
    assert picked(of, 0.0) == {None}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_request_that_has_streamed_is_not_tried_again(outcome: Outcome) -> None:
    assert not may_retry(outcome, streamed=True)
    assert may_retry(outcome, streamed=False) == (outcome in ELSEWHERE)


def test_tries_of_a_request_go_to_different_upstreams() -> None:
    of = router(*"abcdef")
    tries = Tries(of, RouteKey(session="s"))
    seen = []
    while found := tries.next(0.0):
        seen.append(found.name)
        assert tries.ended(Outcome.FAILED, 0.0, 0.1, streamed=False)
    assert len(set(seen)) == len(seen) == MOST_TRIES


def test_upstream_that_timed_out_is_tried_again_without_a_limit() -> None:
    of = router(*"ab")
    some_waits(of, "ab")
    tries = Tries(of, RouteKey(session="s"))
    first = tries.next(0.0)
    assert first is not None
    assert first.limit is not None
    tries.ended(Outcome.TIMED_OUT, first.limit, first.limit, streamed=False)
    second = tries.next(first.limit)
    assert second is not None
    assert second.name != first.name
    tries.ended(Outcome.FAILED, 20.0, 0.1, streamed=False)
    assert tries.next(20.0) == Try(first.name, None, False)
    tries.ended(Outcome.TIMED_OUT, 60.0, 40.0, streamed=False)
    assert tries.next(60.0) is None


def test_low_request_that_waits_does_not_make_an_upstream_slow() -> None:
    of = router(*"ab")
    some_waits(of, "ab")
    for _ in range(CONSECUTIVE_FAILURES):
        tries = Tries(of, RouteKey(session="s"), is_low=True)
        found = tries.next(0.0)
        assert found is not None
        assert found.limit is None
        tries.ended(Outcome.OK, 1000.0, 1000.0, streamed=True)
    assert [s.state for s in of.states(1000.0)] == ["healthy"] * 2
    assert of.patience("a") == of.patience("b") == 5.0  # as before


@dataclass
class Pool:
    """Five upstreams: one is dead, one answers after 30 s, one answers nonsense, and two are sound."""

    of: Router = field(
        default_factory=lambda: router("dead", "slow", "nonsense", "sound", "sound 2")
    )
    now: float = 0.0
    sent: dict[str, int] = field(default_factory=dict)

    def serve(self, session: str) -> Outcome:
        tries = Tries(self.of, RouteKey(session=session))
        while found := tries.next(self.now):
            self.sent[found.name] = self.sent.get(found.name, 0) + 1
            outcome, waited = self.answer(found)
            self.now += waited
            again = tries.ended(outcome, self.now, waited, streamed=outcome is Outcome.OK)
            if not again:
                return outcome
        return Outcome.FAILED

    def answer(self, found: Try) -> tuple[Outcome, float]:
        if found.name in ("dead", "nonsense"):
            return Outcome.FAILED, 0.05
        if found.name == "slow":
            limit = 30.0 if found.limit is None else found.limit
            return (Outcome.OK if limit >= 30.0 else Outcome.TIMED_OUT), min(limit, 30.0)
        return Outcome.OK, 0.2


def test_no_request_is_lost_while_a_sound_upstream_is_left() -> None:
    pool = Pool()
    outcomes = [pool.serve(str(i % 40)) for i in range(1_000)]
    assert set(outcomes) == {Outcome.OK}
    faulty = sum(n for name, n in pool.sent.items() if not name.startswith("sound"))
    assert faulty < 100


def test_no_request_is_lost_if_only_a_slow_upstream_is_left() -> None:
    pool = Pool(router("dead", "slow", "nonsense"))
    assert {pool.serve(str(i % 40)) for i in range(200)} == {Outcome.OK}
