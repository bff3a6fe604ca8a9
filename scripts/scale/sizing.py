"""How many replicas a number of developers needs, found by simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import Final

from scale.policy import AFFINITY
from scale.replica import StepTimes
from scale.simulation import Outcomes, Scenario, simulate
from scale.typing_session import Typing

DEVELOPERS: Final = (1, 10, 100, 1_000, 10_000)
# Share of the developers who type in the busiest hour. Developers write code for 52 minutes a day (Software.com, "Code
# Time Report", 250,000 developers), 11 % of eight hours; the busiest hour is taken to have twice the mean.
TYPING: Final = 0.22
SLOWER: Final = (
    2.0  # a sufficient p95, as a multiple of that of one developer with a replica of their own
)
_MOST_EVENTS: Final = 60_000  # developers × seconds of one simulation
_STEP: Final = 1.1  # large numbers of replicas are found to within 10 %


@dataclass(frozen=True, slots=True)
class Size:
    """Replicas for a number of developers."""

    developers: int
    typists: int
    replicas: int
    outcomes: Outcomes
    at_random: Outcomes  # with the same replicas, each request at a random one


def sizes(
    typing: Typing,
    times: StepTimes,
    developers: tuple[int, ...],
    share: float = TYPING,
) -> list[Size]:
    """Return the fewest replicas whose p95 is sufficient, for each number of developers."""
    alone = _run(typing, times, Scenario(1, 1, seconds=900.0))
    found: list[Size] = []
    for n in developers:
        typists = max(1, round(n * share))
        last = found[-1] if found else None
        least = max(1, ceil(last.replicas * typists / last.typists * 0.7)) if last else 1
        found.append(_size(typing, times, (n, typists, least), SLOWER * alone.p95))
    return found


def _run(typing: Typing, times: StepTimes, scenario: Scenario) -> Outcomes:
    seconds = min(scenario.seconds, max(40.0, _MOST_EVENTS / scenario.typists))
    return simulate(replace(scenario, seconds=seconds, warm_up=seconds / 3), typing, times)


def _size(typing: Typing, times: StepTimes, load: tuple[int, int, int], p95: float) -> Size:
    """Return the fewest replicas, not below the least, whose p95 does not exceed the limit.

    Args:
        typing: the typing session.
        times: of a replica.
        load: developers, those who type, and the least number of replicas to try.
        p95: limit in seconds.
    """
    developers, typists, replicas = load

    @cache
    def at(n: int) -> Outcomes:
        return _run(typing, times, Scenario(typists, n, AFFINITY, seconds=600.0))

    while at(replicas).p95 > p95 and replicas < typists:
        replicas = min(typists, max(replicas + 1, int(replicas * _STEP)))
    at_random = _run(typing, times, Scenario(typists, replicas, "random", seconds=600.0))
    return Size(developers, typists, replicas, at(replicas), at_random)
