"""How many tokens may be guessed, so that wrong guesses cost little. Knows nothing of tokens, models or clocks."""

from __future__ import annotations

from serve.drafting.token_index import MOST

FIRST = 4  # guessed tokens that a request may begin with


class Allowance:
    """One request's account, in units of one decode step's cost.

    Each step earns `share`; a guessed token costs `cost`; a right one gives back the step that it saved. So
    guessing never costs more, after what it saved, than `share` of the steps and the first credit.

    Args:
        share: what guessing may cost, as a part of the steps without it.
        cost: of computing one guessed token along with a step, in steps.
        first: guessed tokens to begin with.
    """

    def __init__(self, *, cost: float, share: float = 0.05, first: int = FIRST) -> None:
        self._cost, self._share = max(cost, 1e-3), share
        self._credit = first * self._cost

    def n(self) -> int:
        """How many tokens may be guessed in the next step."""
        return min(MOST, int(self._credit / self._cost + 1e-9))

    def result(self, guessed: int, accepted: int) -> None:
        """Book one step, with or without guesses."""
        self._credit += self._share + accepted - guessed * self._cost
        # Success is not saved up: what went well for long may fail for long.
        self._credit = min(self._credit, MOST * self._cost)
