"""Comparison of two models on the same tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_Z: Final = 1.959964  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True, slots=True)
class Paired:
    """Numbers of tasks that two models solve.

    Attributes:
        both, neither: tasks on which the models agree.
        only_reference, only_candidate: discordant pairs, which only one model solves.
    """

    both: int
    neither: int
    only_reference: int
    only_candidate: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[bool, bool]]) -> Paired:
        """Count (reference, candidate) pairs."""
        found = list(pairs)
        return cls(
            *(found.count(p) for p in ((True, True), (False, False), (True, False), (False, True)))
        )

    @property
    def n(self) -> int:
        """Number of tasks."""
        return self.both + self.neither + self.only_reference + self.only_candidate

    @property
    def reference(self) -> int:
        """Tasks that the reference solves."""
        return self.both + self.only_reference

    @property
    def candidate(self) -> int:
        """Tasks that the candidate solves."""
        return self.both + self.only_candidate

    @property
    def p_value(self) -> float:
        """Probability of discordant pairs at least this uneven if neither model were better.

        McNemar's exact test: a two-sided binomial test of the discordant pairs with probability 1/2. Source: McNemar,
        "Note on the sampling error of the difference between correlated proportions or percentages", 1947.
        """
        fewer, more = sorted((self.only_reference, self.only_candidate))
        n = fewer + more
        tail = sum(math.comb(n, k) for k in range(fewer + 1))
        return min(1.0, 2 * tail / (1 << n))

    @property
    def difference(self) -> float:
        """Share of tasks that the candidate solves minus that of the reference."""
        return (self.only_candidate - self.only_reference) / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of `difference`.

        Wald's interval with half a task added to each of the four counts, so that it has a width even without
        discordant pairs. Source: Agresti and Min, "Simple improved confidence intervals for comparing matched
        proportions", 2005.
        """
        n = self.n + 2
        b, c = self.only_reference + 0.5, self.only_candidate + 0.5
        middle = (c - b) / n
        half = _Z * math.sqrt(b + c - (c - b) ** 2 / n) / n
        return max(-1.0, middle - half), min(1.0, middle + half)
