"""Developers who type, replicas behind a policy, and the clock: a discrete-event simulation.

The same seed gives the same result. Each developer who types goes through the recorded session from another place, and
then begins again with other files, of which no replica has anything cached.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.scenarios import percentile

from scale.policy import Policy, policy
from scale.replica import Job, Replica, StepTimes, Totals
from scale.typing_session import Typing
from serve.upstream.health import Outcome
from serve.upstream.routing import RouteKey

_ASK, _CANCEL, _STEP = range(3)
TIES: Final = ("session", "file", "prompt")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Developers, replicas and routing.

    Attributes:
        typists: developers who type at the same time.
        replicas: number of servers.
        policy: name of a policy.
        seconds: simulated time; the first `warm_up` of them do not count.
        tie: what the router knows of a request: its session, its file or only its prompt.
        seed: seed of all random choices.
        spread: whether developers begin at random places and times; else evenly, as in `replay`.
        slower: factor by which developers type slower than in the trace.
        front: replay through `serve --upstream` instead of a router in the replay; the simulation is the same.
    """

    typists: int
    replicas: int
    policy: str = "affinity"
    seconds: float = 120.0
    warm_up: float = 30.0
    tie: str = "session"
    seed: int = 0
    spread: bool = True
    slower: float = 1.0
    front: bool = False


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Results of a simulation or of a replay.

    Attributes:
        requests: requests per second that were sent.
        completions: completions per second that a developer waited for and got.
        p50: median seconds to such a completion.
        p95: 95th percentile.
        cached: share of the prompt tokens that were cached.
        computed: prompt tokens per request that were computed.
        busy: share of the time in which a replica computed.
        tokens: mean tokens of the completions.
    """

    requests: float
    completions: float
    p50: float
    p95: float
    cached: float
    computed: float
    busy: float
    tokens: float


def start_of(typist: int, typists: int, n: int) -> int:
    """Return the request of the trace at which a developer begins, if they are spread evenly."""
    return typist * n // typists


def at_share(values: Sequence[float], share: float) -> float:
    """Return a percentile of the values; 0 if there are none."""
    return percentile(values, share) if values else 0.0


class Simulation:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, typing: Typing, times: StepTimes) -> None:
        typing = typing.slowed(scenario.slower)
        self._scenario, self._typing, self._times = scenario, typing, times
        self._policy: Policy = policy(
            scenario.policy, scenario.replicas, times.slots, scenario.seed
        )
        self._totals = Totals()
        self._replicas = [Replica(times, typing, self._totals) for _ in range(scenario.replicas)]
        self._at: list[int] = []  # each developer's next request
        self._person = list(range(scenario.typists))
        self._persons = itertools.count(scenario.typists)
        self._events: list[tuple[float, int, int, int, Job | None]] = []
        self._n = itertools.count()
        self._asked = 0
        self._seconds: list[float] = []  # of completions that were waited for

    def run(self) -> Outcomes:
        """Run to the end and return the results."""
        scenario, events = self._scenario, self._events
        choose = random.Random(scenario.seed)
        for i in range(scenario.typists):
            n = len(self._typing)
            self._at.append(
                choose.randrange(n) if scenario.spread else start_of(i, scenario.typists, n)
            )
            self._push(choose.random() if scenario.spread else 0.0, _ASK, i)
        before = Totals()
        is_warm = False
        while events and events[0][0] < scenario.seconds:
            now, _, kind, i, job = heapq.heappop(events)
            if not is_warm and now >= scenario.warm_up:
                is_warm, before = True, _copy(self._totals)
                self._asked, self._seconds = 0, []
            if kind == _STEP:
                if self._replicas[i // _VERSIONS].version == i % _VERSIONS:
                    self._end_step(i // _VERSIONS, now)
            elif kind == _ASK:
                self._ask(i, now)
            elif job is not None:
                self._cancel(job, now)
        return self._outcomes(before)

    def _push(self, time: float, kind: int, i: int, job: Job | None = None) -> None:
        heapq.heappush(self._events, (time, next(self._n), kind, i, job))

    def _ask(self, typist: int, now: float) -> None:
        typing, at = self._typing, self._at[typist]
        person = self._person[typist]
        replica = self._policy.pick(self._key(person, at), now)
        job = Job(typist, person, at, replica, now)
        self._asked += 1
        self._at[typist] = (at + 1) % len(typing)
        if at + 1 == len(typing):
            self._person[typist] = next(self._persons)
        if (close := typing.close[at]) is not None:
            self._push(now + close, _CANCEL, 0, job)
            self._push(now + typing.after[self._at[typist]], _ASK, typist)
        server = self._replicas[replica]
        if server.knows(job):
            self._finish(job, now)
            return
        server.queue.append(job)
        if not server.is_busy:
            self._begin_step(replica, now)
        elif len(server.running) < self._times.slots:
            self._interrupt(replica, now)

    def _key(self, person: int, request: int) -> RouteKey:
        if self._scenario.tie == "session":
            return RouteKey(session=str(person))
        if self._scenario.tie == "file":
            return RouteKey(file=f"{person} {self._typing.file[request]}")
        key = self._typing.key[request]
        return RouteKey(prefix=key and f"{person} {key}")

    def _cancel(self, job: Job, now: float) -> None:
        if job.to_decode <= 0 and job.is_admitted:
            return  # finished before
        if job.is_cancelled or job.sent < 0:
            return
        job.is_cancelled = True
        waited = (job.first if job.first >= 0 else now) - job.sent
        self._policy.end(job.replica, Outcome.CANCELLED, now, waited)
        if job.is_admitted:
            self._interrupt(job.replica, now)

    def _interrupt(self, replica: int, now: float) -> None:
        end = self._replicas[replica].interrupt(now)
        if end is not None:
            self._plan(replica, end)

    def _begin_step(self, replica: int, now: float) -> None:
        end = self._replicas[replica].begin(now)
        if end is not None:
            self._plan(replica, end)

    def _plan(self, replica: int, end: float) -> None:
        server = self._replicas[replica]
        server.version = (server.version + 1) % _VERSIONS
        self._push(end, _STEP, replica * _VERSIONS + server.version)

    def _end_step(self, replica: int, now: float) -> None:
        for job in self._replicas[replica].end(now):
            self._finish(job, now)
        self._begin_step(replica, now)

    def _finish(self, job: Job, now: float) -> None:
        now += self._times.overhead
        first = job.first if job.first >= 0 else now
        self._policy.end(job.replica, Outcome.OK, now, first - job.sent)
        if self._typing.close[job.request] is None:
            self._seconds.append(now - job.sent)
            self._push(now + self._typing.after[self._at[job.session]], _ASK, job.session)
        job.sent = -1.0

    def _outcomes(self, before: Totals) -> Outcomes:
        seconds = self._scenario.seconds - self._scenario.warm_up
        after, waits = self._totals, self._seconds
        prompt = after.prompt_tokens - before.prompt_tokens
        cached = after.cached_tokens - before.cached_tokens
        return Outcomes(
            requests=self._asked / seconds,
            completions=len(waits) / seconds,
            p50=at_share(waits, 0.5),
            p95=at_share(waits, 0.95),
            cached=cached / max(1, prompt),
            computed=(prompt - cached) / max(1, self._asked),
            busy=(after.busy - before.busy) / seconds / self._scenario.replicas,
            tokens=self._typing.max_tokens,
        )


_VERSIONS: Final = 1 << 20  # a step's event carries replica and version in one number


def _copy(totals: Totals) -> Totals:
    return Totals(
        totals.prompt_tokens,
        totals.cached_tokens,
        totals.generated_tokens,
        totals.admitted,
        totals.busy,
    )


def simulate(scenario: Scenario, typing: Typing, times: StepTimes) -> Outcomes:
    """Run a scenario."""
    return Simulation(scenario, typing, times).run()
