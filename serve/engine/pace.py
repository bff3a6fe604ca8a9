"""How long a batch takes: learned from the batches. The caller has the clock.

From it follow how many prompt tokens may join a step that others wait for, and what a draft token costs beside a step
of its own. A few tokens more cost otherwise than hundreds (other kernels, another graph), so they are measured apart.
"""

from __future__ import annotations

# A step that somebody's next token waits for should take no longer than this, in seconds. Smaller pieces of the prompts
# beside it would let a stream run smoother, but each token that is written while prompts are read costs a whole step:
# everybody is done sooner when prompts are read first (scripts/bench_serve.py, `eight`).
PATIENCE = 1.0
# Nor should a step that nobody waits for take longer than this: whoever comes or leaves meanwhile is not heard.
LONGEST = 2.0
# Smaller chunks of a prompt waste more by reading the weights for each than they help anybody.
LEAST_CHUNK = 32
# Batches of 2 to so many tokens tell what draft tokens cost.
FEW = 16
UNKNOWN_COST = 0.3  # until it is measured
# How much a new measurement counts.
_WEIGHT = 0.1


class Pace:
    """Running means of the seconds of a single step, of a few tokens more in it, and of a prompt's token."""

    def __init__(self) -> None:
        self._single = self._few = self._many = self._draft = 0.0

    def observe_drafts(self, n: int, seconds: float) -> None:
        """A draft model took so long for so many tokens."""
        if n and 0 < seconds < 60:
            self._draft = _mean(self._draft, seconds / n)

    def observe(self, n_tokens: int, seconds: float, *, n_sequences: int = 1) -> None:
        """A batch of so many tokens took so long. A clock that jumps is not believed."""
        if n_tokens < 1 or not 0 < seconds < 60:
            return
        if n_tokens == 1:
            self._single = _mean(self._single, seconds)
        elif n_tokens > 2 * FEW:
            self._many = _mean(self._many, seconds / n_tokens)
        elif n_tokens <= FEW and n_sequences == 1 and self._single:
            more = max(seconds - self._single, 0.0) / (n_tokens - 1)
            self._few = _mean(self._few, more)

    @property
    def draft_cost(self) -> float:
        """What a draft token costs, to make and to compute in a batch, in steps of one token: 0 … 1."""
        if not self._single or not self._few:
            return UNKNOWN_COST
        return min((self._few + self._draft) / self._single, 1.0)

    def prompt_budget(self, n_batch: int, *, somebody_waits: bool) -> int:
        """Prompt tokens for one step."""
        if not self._many:
            return min(n_batch, 4 * LEAST_CHUNK) if somebody_waits else n_batch
        seconds = PATIENCE if somebody_waits else LONGEST
        return max(min(LEAST_CHUNK, n_batch), min(n_batch, int(seconds / self._many)))


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
