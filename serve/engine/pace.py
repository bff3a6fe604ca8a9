"""How long a batch takes: learned from the batches. Pure; the caller has the clock.

A step's seconds are about `fixed + each · tokens`. From both follow how many prompt tokens may join a step that
others wait for, and what a guess costs beside a step of its own.
"""

from __future__ import annotations

# A step that somebody's next token waits for should take no longer than this, in seconds: a stream that
# stands still for longer is felt.
PATIENCE = 0.25
# Smaller chunks of a prompt waste more by reading the weights for each than they help anybody.
LEAST_CHUNK = 32
# How much a new measurement counts.
_WEIGHT = 0.1


class Pace:
    """Running means of a single step's time and of a further token's."""

    def __init__(self) -> None:
        self._single = 0.0
        self._each = 0.0
        self._guess = 0.0

    def observe_guesses(self, n: int, seconds: float) -> None:
        """A draft model took so long for so many guesses."""
        if n and 0 < seconds < 60:
            self._guess = _mean(self._guess, seconds / n)

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A batch of so many tokens took so long. A clock that jumps is not believed."""
        if n_tokens < 1 or not 0 < seconds < 60:
            return
        if n_tokens == 1:
            self._single = _mean(self._single, seconds)
        elif n_tokens >= 8 or self._single:
            more = max(seconds - self._single, 0.0) / (n_tokens - 1)
            self._each = _mean(self._each, more)

    @property
    def guess_cost(self) -> float:
        """What a guess costs, to make and to compute in a batch, in steps of one token: 0 … 1."""
        if not self._single or not self._each:
            return 0.5  # until it is measured
        return min((self._each + self._guess) / self._single, 1.0)

    def prompt_budget(self, n_batch: int) -> int:
        """Prompt tokens that may join a step that others wait for."""
        if not self._each:
            return min(n_batch, 4 * LEAST_CHUNK)
        return max(LEAST_CHUNK, min(n_batch, int(PATIENCE / self._each)))


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
