"""Planning of steps: the tokens that each step computes, and estimates of how long steps take.

The durations of earlier batches determine how many prompt tokens may join a decode step, and the cost of a draft token
in units of a step. A few additional tokens cost differently from hundreds (llama.cpp uses other kernels and another
graph), so the two are measured separately.
"""

from __future__ import annotations

from serve.adapters import AdapterSet
from serve.engine.sequence import Sequence
from serve.engine.slots import Slots

# One of this many prefill steps begins with the oldest prompt, so that it is not starved; the others with the shortest.
OLDEST_TURN = 4
# Longest prefill in a step, in seconds, while other requests decode. Smaller pieces of the prompts would make streams
# smoother, but each token that is decoded while prompts are prefilled costs a whole step: all requests finish sooner if
# prompts are prefilled first (scripts/bench_serve.py, `eight`).
PATIENCE = 1.0
# Longest step otherwise, in seconds: new and cancelled requests have to wait until it ends.
LONGEST = 2.0
# Longest step of sequences that give way, in seconds: users do not notice that a completion waits for it. Shorter steps
# cost more speed, since each step reads all weights.
GIVES_WAY = 0.1
# Smallest piece of a prompt, in tokens: each piece reads all weights, so smaller ones are inefficient.
LEAST_CHUNK = 32
# Longest piece of a single prompt, in tokens: a cancelled request and the ones after it wait until it is computed.
LONGEST_PIECE = 512
# Longest turn of a set of LoRA adapters while others wait, in steps and in seconds. After a change, llama.cpp plans its
# buffers again, which took 17 ms for the bundled model, whose steps take 0.8 ms.
TURN_STEPS = 32
TURN_SECONDS = 0.2
# Largest batch, in tokens, that is used to measure the cost of draft tokens.
FEW = 16
UNKNOWN_COST = 0.3  # cost of a draft token before any measurement
# Weight of a new measurement in the running means.
_WEIGHT = 0.1


class Planner:
    """Divides steps between sequences that decode and prompts to prefill.

    A plan is a list of sequences with `stop` and `draft` set. Slots that share a pool of cells are computed in one
    pass, so decoding and prefill share a step. If each slot has separate cells, llama.cpp computes only sequences with
    equal numbers of tokens in one pass: a shared step would take two passes, and all sequences would wait for both.
    Decode and prefill then alternate. Sequences with different LoRA adapters take turns too, since llama.cpp applies
    adapters to whole batches.

    Args:
        slots: the slots with the running sequences.
        n_batch: maximum number of tokens in one step; at least the number of slots.
        most_drafted: maximum number of draft tokens in one step.
    """

    def __init__(self, slots: Slots, *, n_batch: int, most_drafted: int) -> None:
        self._slots, self._n_batch, self._most_drafted = slots, n_batch, most_drafted
        # When each turn was taken last, for the turns that are possible now; see `_take_turn`.
        self._turns: dict[tuple[AdapterSet, bool], int] = {}
        self._n_turns = 0
        # The present adapters, and for how long.
        self._adapters: AdapterSet = ()
        self._n_steps, self._seconds = 0, 0.0
        self._n_prompt_steps = 0
        # Running means in seconds: a step of one token, each of a few additional tokens, a prompt token, and a token
        # from the draft model.
        self._single = self._few = self._many = self._draft = 0.0

    def observe_drafts(self, n: int, seconds: float) -> None:
        """Record how long a draft model took for `n` tokens."""
        if n and 0 < seconds < 60:
            self._draft = _mean(self._draft, seconds / n)

    def observe(self, n_tokens: int, seconds: float, *, n_sequences: int = 1) -> None:
        """Record how long a batch took; implausible durations, caused by a clock that jumped, are ignored."""
        if n_tokens < 1 or not 0 < seconds < 60:
            return
        self._seconds += seconds
        if n_tokens == 1:
            self._single = _mean(self._single, seconds)
        elif n_tokens > 2 * FEW:
            self._many = _mean(self._many, seconds / n_tokens)
        elif n_tokens <= FEW and n_sequences == 1 and self._single:
            more = max(seconds - self._single, 0.0) / (n_tokens - 1)
            self._few = _mean(self._few, more)

    @property
    def draft_cost(self) -> float:
        """Cost of drafting a token and computing it in a batch, in units of a step of one token: 0 … 1."""
        if not self._single or not self._few:
            return UNKNOWN_COST
        return min((self._few + self._draft) / self._single, 1.0)

    def _prompt_budget(self, running: list[Sequence]) -> int:
        """Return the maximum number of prompt tokens in one step."""
        n_batch, seconds = self._n_batch, LONGEST
        if any(s.rank for s in running):
            seconds = GIVES_WAY
        elif any(s.generates for s in running):
            seconds = PATIENCE
        if not self._many:
            return n_batch if seconds == LONGEST else min(n_batch, 4 * LEAST_CHUNK)
        return max(min(LEAST_CHUNK, n_batch), min(n_batch, int(seconds / self._many)))

    def plan(self, beside: int | None = None, alone: int | None = None) -> list[Sequence]:
        """Plan the next step: one token and the draft of each decoding sequence, and pieces of prompts.

        Args:
            beside: maximum number of prompt tokens if other sequences decode (a prompt's last piece may be up to twice
                as long); None derives the number from the durations of earlier steps.
            alone: the same if no sequence decodes.
        """
        running = self._slots.running
        generating = [s for s in running if s.generates]
        prompts = [s for s in running if not s.generates]
        budget = beside if generating else alone
        if budget is None:
            budget = self._prompt_budget(running)
        generating, prompts = self._take_turn(generating[: self._n_batch], prompts)
        drafted = self._next_tokens(generating)
        left = self._n_batch - sum(1 + len(s.draft) for s in generating)
        return generating + self._pieces(prompts, left, budget, drafted)

    def _take_turn(
        self, generating: list[Sequence], prompts: list[Sequence]
    ) -> tuple[list[Sequence], list[Sequence]]:
        """Return the sequences that the next step computes together: those that have waited longest.

        A set of adapters keeps its turn for some steps, because a change costs time.
        """

        def turn(s: Sequence) -> tuple[AdapterSet, bool]:
            return s.request.adapters, not s.generates and not self._slots.pooled

        possible = dict.fromkeys(turn(s) for s in (*prompts, *generating))
        self._turns = {t: self._turns.get(t, self._n_turns) for t in possible}
        same = [t for t in possible if t[0] == self._adapters]
        others = [t for t in possible if t[0] != self._adapters]
        is_over = self._n_steps >= TURN_STEPS or self._seconds >= TURN_SECONDS
        if not (choice := (others if is_over else same) or others or same):
            return [], []
        chosen = min(choice, key=self._turns.__getitem__)
        if chosen[0] != self._adapters:
            self._adapters, self._n_steps, self._seconds = chosen[0], 0, 0.0
        self._n_steps += 1
        self._n_turns += 1
        self._turns[chosen] = self._n_turns
        return [s for s in generating if turn(s) == chosen], [
            s for s in prompts if turn(s) == chosen
        ]

    def plan_alone(self, sequence: Sequence) -> list[Sequence]:
        """Plan a step with one running sequence only, without a draft."""
        most = self._n_batch
        if sequence.n_past < sequence.n_scored:
            most = min(most, 1 + self._most_drafted)
        sequence.stop = sequence.n_past + min(sequence.n_piece, most)
        sequence.draft = []
        return [sequence]

    def _next_tokens(self, generating: list[Sequence]) -> int:
        """Plan the next token and the draft of each sequence; return how many draft tokens remain for prompts."""
        drafted = min(self._n_batch - len(generating), self._most_drafted)
        for at, s in enumerate(generating):
            s.stop = s.n_past + 1
            s.draft = s.draft[: drafted // (len(generating) - at)]
            drafted -= len(s.draft)
        return drafted

    def _pieces(
        self, prompts: list[Sequence], left: int, budget: int, drafted: int
    ) -> list[Sequence]:
        """Plan the pieces of prompts in a step.

        If the slots share a pool, plan as few pieces as possible, shortest prompt first, so that short requests need
        not wait. Otherwise llama.cpp computes equal pieces of several prompts together; they end together, and decode
        together afterwards.
        """
        if not prompts or not left:
            return []
        if len(prompts) == 1:
            budget = min(budget, LONGEST_PIECE)
        self._n_prompt_steps += 1
        order = sorted(prompts, key=lambda s: s.n_pending)
        if self._n_prompt_steps % OLDEST_TURN == 0:
            oldest = min(order, key=lambda s: self._slots.all[s.slot].last_used)
            order.sort(key=lambda s: s is not oldest)
        if len(prompts) > 1 and not self._slots.pooled:
            return self._shares(prompts, order, min(budget, left), drafted)
        # A prompt is prefilled to its end if less than a budget would remain: small pieces read all weights for few
        # tokens.
        budget = small = min(budget, left)
        planned: set[int] = set()
        for s in order:
            most = min(left, budget if planned else budget + small)
            n = min(s.n_pending if s.n_pending <= most else min(left, budget), s.n_piece)
            if not n or (planned and n < min(s.n_pending, small)):
                break
            if s.n_past < s.n_scored:  # each token needs one of the few rows of logits
                n = min(n, 1 + drafted)
                drafted -= n - 1
            left -= n
            budget = max(budget - n, 0)
            s.draft = s.draft[: min(drafted, left)] if n == s.n_pending else []
            drafted -= len(s.draft)
            left -= len(s.draft)
            s.stop = s.n_past + n
            planned.add(s.id)
        # In slot order: llama.cpp computes neighbouring sequences together.
        return [s for s in prompts if s.id in planned]

    def _shares(
        self, prompts: list[Sequence], order: list[Sequence], left: int, drafted: int
    ) -> list[Sequence]:
        """Divide a step's `left` tokens equally between prompts; `order` has the shortest first."""
        planned: set[int] = set()
        for at, s in enumerate(order):
            share = max(left // (len(order) - at), min(LEAST_CHUNK, left))
            n = min(s.n_piece, share)
            if not n:
                break
            if s.n_past < s.n_scored:
                n = min(n, 1 + drafted)
                drafted -= n - 1
            s.draft = []
            left -= n
            s.stop = s.n_past + n
            planned.add(s.id)
        return [s for s in prompts if s.id in planned]


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (new - old) if old else new
