"""Tests of simulate_scale: the model of a replica, the simulation, the replay against real servers, the documents."""

from __future__ import annotations

import asyncio
import sys
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import FakeDecoder
from tests.support.serving import running

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from bench.trace import debounced, load_trace  # noqa: E402
from scale import engines, plot, report, sizing  # noqa: E402
from scale.measure import fit_prefill  # noqa: E402
from scale.policy import AFFINITY, POLICIES, STRICT  # noqa: E402
from scale.replay import Replay  # noqa: E402
from scale.replica import Job, PrefixCache, Replica, StepTimes, Totals  # noqa: E402
from scale.simulation import Scenario, Simulation, simulate  # noqa: E402
from scale.typing_session import Typing, common, hour_of, typing_of  # noqa: E402

TIMES = StepTimes((0.008, 0.009, 0.01, 0.011), 0.0005, 0.004, 0.002)
TRACE = debounced(load_trace(), 75)
SESSION = typing_of(TRACE, list(TRACE.prompts()), 3.2)


def one_request(tokens: int, max_tokens: int, close: float | None = None) -> Typing:
    """Return a session of one request, repeated with other files after a second."""
    return Typing((1.0,), (close,), (tokens,), ((tokens,),), (0,), (0,), (None,), max_tokens)


def test_time_of_a_request_is_that_of_its_steps() -> None:
    scenario = Scenario(1, 1, seconds=20.0, warm_up=0.0, spread=False)
    outcomes = simulate(scenario, one_request(100, 4), TIMES)
    expected = 0.004 + 100 * 0.0005 + 3 * 0.008 + 0.002
    assert outcomes.p50 == pytest.approx(expected)
    assert outcomes.completions == pytest.approx(1 / (1 + expected), abs=0.05)
    assert outcomes.cached == 0


def test_two_requests_decode_together() -> None:
    scenario = Scenario(2, 1, seconds=0.5, warm_up=0.0, spread=False)
    outcomes = simulate(scenario, one_request(100, 4), TIMES)
    # The second prompt comes during the first prefill; steps then alternate, and the second decodes its end alone.
    prefill = 0.004 + 100 * 0.0005
    assert outcomes.p95 == pytest.approx(2 * prefill + 0.008 + 2 * 0.009 + 0.008 + 0.002)


def test_repeated_prompt_is_answered_at_once() -> None:
    session = Typing(
        (1.0, 1.0), (None, None), (100, 100), ((100, 100), (100, 100)), (0, 0), (0, 0),
        (None, None), 4,
    )  # fmt: skip
    outcomes = simulate(Scenario(1, 1, seconds=2.0, warm_up=0.0, spread=False), session, TIMES)
    assert outcomes.p50 == pytest.approx(TIMES.overhead)


def test_prompt_that_grows_is_prefilled_once() -> None:
    session = Typing(
        (1.0, 1.0), (None, None), (100, 150), ((100, 100), (100, 150)), (0, 1), (0, 0),
        (None, None), 4,
    )  # fmt: skip
    outcomes = simulate(Scenario(1, 1, seconds=2.0, warm_up=0.0, spread=False), session, TIMES)
    assert outcomes.cached == pytest.approx(100 / 250)


@pytest.mark.parametrize("policy", POLICIES)
def test_same_seed_gives_the_same_outcomes(policy: str) -> None:
    scenario = Scenario(20, 5, policy, seconds=20.0, warm_up=5.0, seed=7)
    assert simulate(scenario, SESSION, TIMES) == simulate(scenario, SESSION, TIMES)


def test_four_replicas_cache_nearly_as_much_as_one() -> None:
    base = Scenario(16, 1, seconds=120.0, slower=4.0)
    one = simulate(base, SESSION, TIMES)
    four = simulate(replace(base, replicas=4), SESSION, TIMES)
    at_random = simulate(replace(base, replicas=4, policy="random"), SESSION, TIMES)
    assert four.cached >= 0.9 * one.cached
    assert at_random.cached < four.cached
    assert at_random.computed > 2 * four.computed


def test_bound_that_spares_idle_slots_caches_more() -> None:
    base = Scenario(16, 4, seconds=200.0)
    strict = simulate(replace(base, policy=STRICT), SESSION, TIMES)
    assert simulate(base, SESSION, TIMES).cached > strict.cached


@pytest.mark.parametrize("tie", ["file", "prompt"])
def test_requests_without_a_session_keep_their_cache_too(tie: str) -> None:
    base = Scenario(16, 4, seconds=120.0, slower=4.0)
    by_session = simulate(base, SESSION, TIMES)
    assert simulate(replace(base, tie=tie), SESSION, TIMES).cached >= 0.9 * by_session.cached


def test_replicas_add_up() -> None:
    found = [
        simulate(Scenario(8 * n, n, seconds=60.0), SESSION, TIMES).completions for n in (1, 4, 16)
    ]
    assert found[1] > 3 * found[0]
    assert found[2] > 3 * found[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_finished_cancelled_or_in_flight(policy: str) -> None:
    simulation = Simulation(Scenario(40, 3, policy, seconds=30.0, warm_up=5.0), SESSION, TIMES)
    simulation.run()
    waiting = [
        job
        for replica in simulation._replicas
        for job in (*replica.queue, *replica.running)
        if not job.is_cancelled
    ]
    waited_for = [job for job in waiting if SESSION.close[job.request] is None]
    asks = [e for e in simulation._events if e[2] == 0]
    assert len(waited_for) + len(asks) == 40  # each developer waits or has a next request
    if policy == AFFINITY:
        states = simulation._policy.router.states(30.0)  # type: ignore[attr-defined]
        assert sum(s.in_flight for s in states) == len(waiting)


def replica_with(n: int) -> tuple[Replica, list[Job]]:
    replica = Replica(TIMES, SESSION, Totals())
    jobs = [Job(i, i, 5 * i, 0, 0.0) for i in range(n)]
    replica.queue.extend(jobs)
    return replica, jobs


def ends_of(replica: Replica, shorten: float | None) -> dict[int, float]:
    """Return when each request ends; each leg of several steps is cut at this share of its length."""
    found: dict[int, float] = {}
    now = 0.0
    while (end := replica.begin(now)) is not None:
        if shorten is not None:
            end = replica.interrupt(now + shorten * (end - now)) or end
        found |= {job.person: end for job in replica.end(end)}
        now = end
    return found


@given(st.integers(1, 4), st.floats(0.0, 0.999))
def test_steps_at_once_end_like_steps_one_by_one(n: int, shorten: float) -> None:
    whole, cut = ends_of(replica_with(n)[0], None), ends_of(replica_with(n)[0], shorten)
    assert whole.keys() == cut.keys()
    assert list(whole.values()) == pytest.approx(list(cut.values()))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, len(SESSION) - 1)), max_size=60),
    st.integers(1_000, 5_000),
)
def test_cache_keeps_its_limit(added: list[tuple[int, int]], most: int) -> None:
    cache = PrefixCache(SESSION, most)
    for person, request in added:
        n = SESSION.tokens[request]
        cache.add(person, request, n)
        assert cache.longest(person, request) == n - 1
        total = sum(cache._tokens.values())
        assert total == cache._n
        assert total <= most or len(cache._tokens) == 1


def test_least_recently_used_prefix_is_dropped() -> None:
    n = SESSION.tokens[0]
    cache = PrefixCache(SESSION, 2 * n)
    cache.add(1, 0, n)
    cache.add(2, 0, n)
    assert cache.longest(1, 0) == n - 1
    cache.add(3, 0, n)
    assert cache.longest(1, 0) == n - 1
    assert cache.longest(2, 0) == 0


def test_prefill_speed_is_fitted_to_two_prompts() -> None:
    assert fit_prefill((100, 0.15), (300, 0.35)) == (0.001, 0.05)


def test_session_as_numbers() -> None:
    prompts = list(TRACE.prompts())
    assert SESSION.shared[3][3] == int(len(prompts[3]) / 3.2)
    assert SESSION.shared[0][5] == SESSION.shared[5][0]
    assert common("abc", "abcd") == 3
    assert common("", "x") == 0
    hour = hour_of(SESSION, 0.3)
    assert hour.finished < hour.requests
    assert hour.new_tokens < 0.1 * hour.prompt_tokens


def test_replay_sends_each_developer_to_one_server() -> None:
    session = Typing(
        (0.0, 0.0), (None, 0.01), (10, 12), ((10, 10), (10, 12)), (0, 1), (0, 0), (None, None), 4
    )
    scenario = Scenario(6, 2, seconds=1.0, warm_up=0.2, spread=False)
    with ExitStack() as stack:
        servers = [stack.enter_context(running(FakeDecoder(n_seq=4))) for _ in range(2)]
        replay = Replay(
            scenario, session, ["a prompt", "a prompt, on"], [s.port for s in servers], 4
        )
        asyncio.run(replay.run())
        seen = [{bytes(r.prompt).split(b":")[0] for r in server.runner.seen} for server in servers]
    assert all(seen)
    assert not seen[0] & seen[1]


def record(name: str = engines.PACED) -> engines.EngineRecord:
    runs = tuple(
        engines.Run(load, simulate(load, SESSION, TIMES), 0.0) for load in engines.loads(name, 5.0)
    )
    return engines.EngineRecord(name, TIMES, 3.2, 3200, 16.0, runs)


def test_measurements_are_read_as_they_were_saved(tmp_path: Path) -> None:
    about = {"machine": "a machine"}
    engines.save([record()], about, tmp_path / "scale.json")
    assert engines.load(tmp_path / "scale.json") == (about, [record()])


def test_documents_are_written_between_their_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, picture = tmp_path / "scale.md", tmp_path / "scale.svg"
    page.write_text(report.PAGE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "PICTURE", picture)
    monkeypatch.setattr(plot, "REPLICAS", (1, 2, 4))
    monkeypatch.setattr(sizing, "_MOST_EVENTS", 100)
    monkeypatch.setattr(report, "DEVELOPERS", (1, 10))
    about = {"machine": "a machine of the test", "date": "2026-01-01", "version": "0"}
    report.write_docs(about, [record()])
    first = page.read_text("utf-8")
    assert "a machine of the test" in first
    report.write_docs(about, [record()])
    assert page.read_text("utf-8") == first
    drawing = ET.fromstring(picture.read_text("utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawing.findall(f"{space}svg")) == len(plot.PANELS)
    spots = drawing.findall(f".//{space}circle")
    assert len(spots) == len(plot.PANELS) * len(plot.measured(record()))
