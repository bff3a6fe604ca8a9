"""The developers of the simulation against real servers: the same requests, the same policy, at real time."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.client import Answer, complete, fetch, greedy

from scale.policy import Policy, policy
from scale.simulation import Outcomes, Scenario, at_share, start_of
from scale.typing_session import Typing
from serve.upstream.health import Outcome
from serve.upstream.routing import RouteKey

_TOKENS = re.compile(r'^turbopilot_tokens_total\{.*kind="(\w+)".*\} (\S+)$', re.M)
_COMPUTING = re.compile(r"^turbopilot_decode_seconds_total(?:\{.*\})? (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of all servers together."""

    prompt: float
    cached: float
    computing: float  # seconds


@dataclass(slots=True)
class Replay:
    """One replay of a scenario.

    Attributes:
        scenario: what is replayed.
        typing: the session.
        prompts: its prompts.
        ports: of the replicas.
        slots: requests that a replica computes at once.
        front: port of a front that routes to all replicas; 0 routes here.
    """

    scenario: Scenario
    typing: Typing
    prompts: Sequence[str]
    ports: Sequence[int]
    slots: int
    front: int = 0
    asked: int = 0
    latest: float = (
        0.0  # largest delay of a request after its due time, in seconds: ours, not the servers'
    )
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    _policy: Policy = field(init=False)
    _next_person: int = field(init=False)

    def __post_init__(self) -> None:
        self.typing = self.typing.slowed(self.scenario.slower)
        self._policy = policy(self.scenario.policy, len(self.ports), self.slots, self.scenario.seed)
        self._next_person = self.scenario.typists

    async def run(self) -> Outcomes:
        """Replay for `scenario.seconds` and return the results."""
        people = [asyncio.create_task(self._type(i)) for i in range(self.scenario.typists)]
        await asyncio.sleep(self.scenario.warm_up)
        before = await self._counters()
        self.asked, self.seconds = 0, []
        await asyncio.sleep(self.scenario.seconds - self.scenario.warm_up)
        asked, waits = self.asked, self.seconds
        after = await self._counters()
        # A task may need several cancellations, because `asyncio.wait_for` of Python 3.11 can lose one.
        while not all(person.done() for person in people):
            for person in people:
                person.cancel()
            await asyncio.wait(people, timeout=0.1)
        for result in await asyncio.gather(*people, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        seconds = self.scenario.seconds - self.scenario.warm_up
        prompt, cached = after.prompt - before.prompt, after.cached - before.cached
        return Outcomes(
            requests=asked / seconds,
            completions=len(waits) / seconds,
            p50=at_share(waits, 0.5),
            p95=at_share(waits, 0.95),
            cached=cached / max(1.0, prompt),
            computed=(prompt - cached) / max(1, asked),
            busy=(after.computing - before.computing) / seconds / self.scenario.replicas,
            tokens=sum(self.tokens) / max(1, len(self.tokens)),
        )

    async def _counters(self) -> Counters:
        pages = [(await fetch(port, "/metrics"))[1].decode() for port in self.ports]
        kinds = [dict(_TOKENS.findall(page)) for page in pages]
        return Counters(
            sum(float(k["prompt"]) for k in kinds),
            sum(float(k["cached"]) for k in kinds),
            sum(float(s) for page in pages for s in _COMPUTING.findall(page)),
        )

    async def _type(self, typist: int) -> None:
        """Send one developer's requests, as `simulation` does."""
        at = start_of(typist, self.scenario.typists, len(self.typing))
        person, due = typist, time.perf_counter()
        while True:
            await _until(due)
            self.latest = max(self.latest, time.perf_counter() - due)
            end = await self._ask(person, at, due)
            at += 1
            if at == len(self.typing):
                at, person = 0, self._next_person
                self._next_person += 1
            due = end + self.typing.after[at]

    async def _ask(self, person: int, at: int, due: float) -> float:
        """Send a request; return the time from which the next one is counted."""
        prompt = f"# {person}: developer\n{self.prompts[at]}"
        key = RouteKey(session=str(person))
        replica = self._policy.pick(key, due)
        self.asked += 1
        fields = greedy(prompt, self.typing.max_tokens, stream=True)
        port = self.front or self.ports[replica]
        request = asyncio.create_task(complete(port, fields, session=f"developer-{person}"))
        close = self.typing.close[at]
        if close is None:
            answer = await self._finished(request, replica, due)
            self.seconds.append(time.perf_counter() - due)
            self.tokens.append(answer.n_tokens)
            return due + answer.seconds
        await _until(due + close)
        if request.done():
            await self._finished(request, replica, due)
            return due
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        self._policy.end(replica, Outcome.CANCELLED, time.perf_counter(), close)
        return due

    async def _finished(self, request: asyncio.Task[Answer], replica: int, due: float) -> Answer:
        answer = await request
        self._policy.end(replica, Outcome.OK, time.perf_counter(), answer.first)
        return answer


async def _until(moment: float) -> None:
    if (left := moment - time.perf_counter()) > 0:
        await asyncio.sleep(left)
