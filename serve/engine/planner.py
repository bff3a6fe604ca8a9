"""Which tokens a step computes, and how long steps take.

The time of earlier batches decides how many prompt tokens may join a step that others wait for, and what a draft token
costs compared with a step of its own. A few tokens more cost differently from hundreds (other kernels, another graph),
so the two are measured apart.
"""

from __future__ import annotations

from serve.engine.sequence import Sequence
from serve.engine.slots import Slots

# One step in so many begins with the oldest prompt, however many shorter ones come; the others with the shortest.
OLDEST_TURN = 4
# Most seconds of a step that a client's next token waits for. Smaller pieces of the prompts beside it would make a
# stream smoother, but each token that is decoded while prompts are prefilled costs a whole step: all are done
# sooner if prompts are prefilled first (scripts/bench_serve.py, `eight`).
PATIENCE = 1.0
# Most seconds of any other step: requests that come or are cancelled meanwhile have to wait for its end.
LONGEST = 2.0
# Smaller pieces of a prompt cost more, as the weights are read for each, than they help anybody.
LEAST_CHUNK = 32
# Batches of 2 to so many tokens show what draft tokens cost.
FEW = 16
UNKNOWN_COST = 0.3  # until it is measured
# How much a new measurement counts.
_WEIGHT = 0.1


class Planner:
    """Divides steps between sequences that decode and prompts to prefill.

    A plan is a list of sequences with `stop` and `draft` set. Slots that share a pool of cells are computed in one
    pass, so prompts join the step of those that decode. If each slot has its own cells, llama.cpp computes together
    only what has equally many tokens: a step of both would be two passes, and all would wait for the end of
    both. Then they take turns.

    Args:
        slots: who runs.
        n_batch: most tokens in one step; at least as many as slots.
        most_drafted: draft tokens in one step.
    """

    def __init__(self, slots: Slots, *, n_batch: int, most_drafted: int) -> None:
        self._slots, self._n_batch, self._most_drafted = slots, n_batch, most_drafted
        self._prompts_turn = False
        self._n_prompt_steps = 0
        # Running means of seconds: of a step of one token, of a few more in it, of a prompt's and of a draft's token.
        self._single = self._few = self._many = self._draft = 0.0

    def observe_drafts(self, n: int, seconds: float) -> None:
        """Note how long a draft model took for `n` tokens."""
        if n and 0 < seconds < 60:
            self._draft = _mean(self._draft, seconds / n)

    def observe(self, n_tokens: int, seconds: float, *, n_sequences: int = 1) -> None:
        """Note how long a batch took; times that only a jump of the clock explains are ignored."""
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
        """Cost of a draft token, to propose and to compute in a batch, in steps of one token: 0 … 1."""
        if not self._single or not self._few:
            return UNKNOWN_COST
        return min((self._few + self._draft) / self._single, 1.0)

    def _prompt_budget(self, *, somebody_waits: bool) -> int:
        """Return how many prompt tokens one step may compute."""
        n_batch = self._n_batch
        if not self._many:
            return min(n_batch, 4 * LEAST_CHUNK) if somebody_waits else n_batch
        seconds = PATIENCE if somebody_waits else LONGEST
        return max(min(LEAST_CHUNK, n_batch), min(n_batch, int(seconds / self._many)))

    def plan(self, beside: int | None = None, alone: int | None = None) -> list[Sequence]:
        """Plan the next step: a token and the draft of each sequence that decodes; prompts beside or in between.

        Args:
            beside: prompt tokens of a step that a client's next token waits for, at most doubled; None is what the
                time of earlier steps allows.
            alone: the same for a step that nobody waits for.
        """
        running = self._slots.running
        generating = [s for s in running if s.generates][: self._n_batch]
        prompts = [s for s in running if not s.generates]
        if generating or not all(s.idles for s in prompts):
            prompts = [s for s in prompts if not s.idles]
        budget = beside if generating else alone
        if budget is None:
            budget = self._prompt_budget(somebody_waits=bool(generating))
        if generating and prompts and not self._slots.pooled:
            self._prompts_turn = not self._prompts_turn
            if self._prompts_turn:
                generating = []
            else:
                prompts = []
        drafted = self._next_tokens(generating)
        left = self._n_batch - sum(1 + len(s.draft) for s in generating)
        return generating + self._pieces(prompts, left, budget, drafted)

    def plan_alone(self, sequence: Sequence) -> list[Sequence]:
        """Plan a step for one running sequence alone, without a draft."""
        most = self._n_batch
        if sequence.n_past < sequence.n_scored:
            most = min(most, 1 + self._most_drafted)
        sequence.stop = min(len(sequence.tokens), sequence.n_past + most)
        sequence.draft = []
        return [sequence]

    def _next_tokens(self, generating: list[Sequence]) -> int:
        """Plan the next token and the draft of each; return how many draft tokens are left for others."""
        drafted = min(self._n_batch - len(generating), self._most_drafted)
        for at, s in enumerate(generating):
            s.stop = s.n_past + 1
            s.draft = s.draft[: drafted // (len(generating) - at)]
            drafted -= len(s.draft)
        return drafted

    def _pieces(
        self, prompts: list[Sequence], left: int, budget: int, drafted: int
    ) -> list[Sequence]:
        """Plan as few pieces of prompts as possible: the shortest first, so that no request waits behind a long one."""
        if not prompts or not left:
            return []
        self._n_prompt_steps += 1
        order = sorted(prompts, key=lambda s: s.n_pending)
        if self._n_prompt_steps % OLDEST_TURN == 0:
            oldest = min(order, key=lambda s: self._slots.all[s.slot].last_used)
            order.sort(key=lambda s: s is not oldest)
        # If less than a budget would be left of a prompt, all of it is prefilled: small pieces read all weights for few
        # tokens.
        budget = small = min(budget, left)
        planned: set[int] = set()
        for s in order:
            most = min(left, budget if planned else budget + small)
            n = s.n_pending if s.n_pending <= most else min(left, budget)
            if not n or (planned and n < min(s.n_pending, small)):
                break
            if s.n_past < s.n_scored:  # a row of logits for each token, and there are few
                n = min(n, 1 + drafted)
                drafted -= n - 1
            left -= n
            budget = max(budget - n, 0)
            s.draft = s.draft[: min(drafted, left)] if n == s.n_pending else []
            drafted -= len(s.draft)
            left -= len(s.draft)
            s.stop = s.n_past + n
            planned.add(s.id)
        # By slot: llama.cpp computes neighbours together.
        return [s for s in prompts if s.id in planned]


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
