"""Which tokens a step computes, and how long steps take.

From the time of batches follow how many prompt tokens may join a step that others wait for, and what a draft token
costs beside a step of its own. A few tokens more cost otherwise than hundreds (other kernels, another graph), so they
are measured apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.decoder import BatchItem
from serve.engine.sequence import Sequence
from serve.engine.slots import Slots

# One step in so many begins with the oldest prompt, however many shorter ones come; the others with the shortest.
OLDEST_TURN = 4
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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `stop` of a sequence, to be computed in this step, and `n_draft` draft tokens after them."""

    sequence: Sequence
    start: int
    stop: int
    n_draft: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the sequence's next token can be chosen after this."""
        return self.stop == len(self.sequence.tokens)

    @property
    def n_scored(self) -> int:
        """Logits after so many of its tokens judge the next of the prompt."""
        return max(0, min(self.stop, self.sequence.n_scored) - self.start)

    def items(self) -> list[BatchItem]:
        """Its part of the batch. Logits are computed wherever a next token is to be chosen or judged."""
        s, last, scored = self.sequence, self.stop - 1, self.start + self.n_scored
        wants_token = self.is_last and not s.only_warms
        items = [
            BatchItem(s.tokens[i], i, s.slot, i < scored or (wants_token and i == last))
            for i in range(self.start, self.stop)
        ]
        for i, token in enumerate(s.draft[: self.n_draft]):
            items.append(BatchItem(token, self.stop + i, s.slot, True))
        return items


class Planner:
    """Divides steps between those that generate and prompts.

    Slots that share a pool of cells are computed in one pass, so prompts join the step of those that generate. Where
    each has its own cells, llama.cpp computes together only what has equally many tokens: a step of both would be two
    passes of which everybody awaits the end. There they take turns.

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

    def _prompt_budget(self, *, somebody_waits: bool) -> int:
        """Prompt tokens for one step."""
        n_batch = self._n_batch
        if not self._many:
            return min(n_batch, 4 * LEAST_CHUNK) if somebody_waits else n_batch
        seconds = PATIENCE if somebody_waits else LONGEST
        return max(min(LEAST_CHUNK, n_batch), min(n_batch, int(seconds / self._many)))

    def plan(self, beside: int | None = None, alone: int | None = None) -> list[Chunk]:
        """The next step's tokens: one for each sequence that generates, and its draft; prompts beside or in between.

        Args:
            beside: prompt tokens of a step that somebody's next token waits for, at most doubled; None is what the
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
        chunks, drafted = self._next_tokens(generating)
        left = self._n_batch - sum(1 + c.n_draft for c in chunks)
        return chunks + self._pieces(prompts, left, budget, drafted)

    def plan_alone(self, sequence: Sequence) -> list[Chunk]:
        """A step for one running sequence and nobody else, without drafts."""
        most = self._n_batch
        if sequence.n_past < sequence.n_scored:
            most = min(most, 1 + self._most_drafted)
        stop = min(len(sequence.tokens), sequence.n_past + most)
        return [Chunk(sequence, sequence.n_past, stop)]

    def _next_tokens(self, generating: list[Sequence]) -> tuple[list[Chunk], int]:
        """Those that generate, and how many draft tokens are left for others."""
        drafted = min(self._n_batch - len(generating), self._most_drafted)
        chunks = []
        for at, s in enumerate(generating):
            n = min(len(s.draft), drafted // (len(generating) - at))
            drafted -= n
            chunks.append(Chunk(s, s.n_past, s.n_past + 1, n))
        return chunks, drafted

    def _pieces(self, prompts: list[Sequence], left: int, budget: int, drafted: int) -> list[Chunk]:
        """Pieces of prompts, as few as can be: the shortest first, so that nobody waits behind a long one."""
        if not prompts or not left:
            return []
        self._n_prompt_steps += 1
        order = sorted(prompts, key=lambda s: s.n_pending)
        if self._n_prompt_steps % OLDEST_TURN == 0:
            oldest = min(order, key=lambda s: self._slots.all[s.slot].last_used)
            order.sort(key=lambda s: s is not oldest)
        # A prompt of which less than a budget would be left is read to its end: small pieces read all weights for few
        # tokens.
        budget = small = min(budget, left)
        chunks: dict[int, Chunk] = {}
        for s in order:
            most = min(left, budget if chunks else budget + small)
            n = s.n_pending if s.n_pending <= most else min(left, budget)
            if not n or (chunks and n < min(s.n_pending, small)):
                break
            if s.n_past < s.n_scored:  # a row of logits for each token, and there are few
                n = min(n, 1 + drafted)
                drafted -= n - 1
            left -= n
            budget = max(budget - n, 0)
            # With its last tokens goes a draft of what follows, as with a single one.
            n_draft = min(len(s.draft), drafted, left) if n == s.n_pending else 0
            drafted -= n_draft
            left -= n_draft
            chunks[s.id] = Chunk(s, s.n_past, s.n_past + n, n_draft)
        # By slot: llama.cpp computes neighbours together.
        return [chunks[s.id] for s in prompts if s.id in chunks]


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
