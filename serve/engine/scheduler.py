"""Who runs next, where, and with how many tokens. Pure: knows nothing of threads, clocks, HTTP or llama.cpp.

Requests run in slots: sequences of one KV cache. A request is admitted, first come first served, when a slot is
free and the cells it may come to need (prompt and `max_tokens`) can be reserved, so a running request can never
run out of room. It begins with the longest beginning of its tokens that is computed already: in its own slot, in
another one, or in the store. One that shares a longer beginning with a prompt that is being computed right now
waits for that instead of computing it a second time; others go past it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from serve.decoder import BatchItem
from serve.engine.placement import Admission, Placement, Store
from serve.engine.sequence import WAITING, Sequence
from serve.engine.slots import Slots

# The oldest prompt gets at least this share of a step, however many shorter ones come.
OLDEST_SHARE = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `stop` of a sequence, to be computed in this step, and `n_draft` guesses after them."""

    sequence: Sequence
    start: int
    stop: int
    n_draft: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the sequence's next token can be chosen after this."""
        return self.stop == len(self.sequence.tokens)

    def items(self, wants_token: bool) -> list[BatchItem]:
        """Its part of the batch. Logits are asked for wherever a next token is to be chosen, if one is wanted."""
        s, last = self.sequence, self.stop - 1
        wants_token = wants_token and self.is_last
        items = [
            BatchItem(s.tokens[i], i, s.slot, wants_token and i == last)
            for i in range(self.start, self.stop)
        ]
        for i, token in enumerate(s.draft[: self.n_draft]):
            items.append(BatchItem(token, self.stop + i, s.slot, True))
        return items


class Scheduler:
    """First come, first served, over a fixed number of slots.

    Args:
        n_slots: requests that run at once.
        n_ctx: most tokens of a sequence.
        n_cells: cells of the KV cache; `n_ctx` where the slots share them.
        n_batch: most tokens in one step; at least `n_slots`.
        n_outputs: most places in one step whose next token can be chosen; at least `n_slots`.
        can_cut: whether a sequence can forget a part of its tokens.
        store: prefixes outside of the KV cache.
    """

    def __init__(
        self,
        *,
        n_slots: int,
        n_ctx: int,
        n_batch: int,
        store: Store,
        n_cells: int | None = None,
        n_outputs: int | None = None,
        can_cut: bool = True,
    ) -> None:
        if not 1 <= n_slots <= n_batch:
            raise ValueError(f"{n_slots} slots do not fit into batches of {n_batch}")
        self.n_slots, self.n_ctx, self.n_batch = n_slots, n_ctx, n_batch
        self.n_cells = n_cells or n_ctx
        self._most_guesses = max(0, (n_outputs or n_slots) - n_slots)
        pooled = self.n_cells < n_slots * n_ctx
        self.slots = Slots(n_slots, pooled=pooled)
        self._placement = Placement(
            self.slots, n_cells=self.n_cells, pooled=pooled, can_cut=can_cut, store=store
        )
        self._waiting: deque[Sequence] = deque()

    @property
    def running(self) -> list[Sequence]:
        """Admitted sequences, in the order of their slots."""
        return self.slots.running

    @property
    def n_waiting(self) -> int:
        """Sequences that are not admitted yet."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the context on its own."""
        if not 1 <= len(sequence.tokens) <= sequence.n_reserved <= self.n_ctx:
            raise ValueError(f"sequence {sequence.id} does not fit into {self.n_ctx} cells")
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not; its computed tokens stay in the slot."""
        if sequence.slot == WAITING:
            self._waiting.remove(sequence)
        else:
            self.slots.release(sequence)

    def computed(self, sequence: Sequence, n_past: int) -> None:
        """So many tokens of a running sequence are in the KV cache now: more than before, or fewer."""
        sequence.n_past = n_past
        self.slots.grown(sequence)

    def admit(self) -> Iterator[Admission]:
        """Move waiting sequences into slots while both last; those that only warm the cache come last.

        Each admission is to be carried out before the next is asked for, which may build on it.
        """
        for sequence in sorted(self._waiting, key=lambda s: s.idles):
            if not self.slots.free():
                break
            if self._placement.will_share_more(sequence):
                continue
            admission = self._placement.place(sequence)
            if admission is None:
                break  # nobody overtakes one that waits for room: it would wait for ever
            self._waiting.remove(sequence)
            yield admission

    def plan(self, beside: int | None = None, alone: int | None = None) -> list[Chunk]:
        """The next step's tokens: one for each sequence that generates, their guesses, then prompts.

        Args:
            beside: prompt tokens that may join where somebody's next token waits for the step.
            alone: prompt tokens of a step that nobody waits for.
        """
        left = self.n_batch
        generating = [s for s in self.running if s.generates][:left]
        left -= len(generating)
        guessing = min(left, self._most_guesses)
        chunks = []
        for at, s in enumerate(generating):
            guesses = min(len(s.draft), guessing // (len(generating) - at))
            guessing -= guesses
            left -= guesses
            chunks.append(Chunk(s, s.n_past, s.n_past + 1, guesses))
        budget = beside if generating else alone
        if budget is not None:
            left = min(left, budget)
        return chunks + self._prompts(left, guessing)

    def plan_alone(self, sequence: Sequence) -> list[Chunk]:
        """A step for one running sequence and nobody else, without guesses."""
        stop = min(len(sequence.tokens), sequence.n_past + self.n_batch)
        return [Chunk(sequence, sequence.n_past, stop)]

    def _prompts(self, left: int, guessing: int) -> list[Chunk]:
        """Prompts: a share for the oldest, then the shortest first, so that nobody waits behind a long one."""
        prompts = [s for s in self.running if not s.generates]
        if not prompts or not left:
            return []
        by_age = sorted(prompts, key=lambda s: (s.idles, self.slots.all[s.slot].last_used))
        shares = {by_age[0].id: min(by_age[0].n_pending, -(-left // OLDEST_SHARE))}
        left -= shares[by_age[0].id]
        for s in sorted(by_age, key=lambda s: (s.idles, s.n_pending)):
            more = min(s.n_pending - shares.get(s.id, 0), left)
            if more:
                shares[s.id] = shares.get(s.id, 0) + more
                left -= more
        chunks = []
        for s in prompts:
            if n := shares.get(s.id, 0):
                # With its last tokens go guesses of what follows, as with a single one.
                guesses = min(len(s.draft), guessing, left) if n == s.n_pending else 0
                guessing -= guesses
                left -= guesses
                chunks.append(Chunk(s, s.n_past, s.n_past + n, guesses))
        return chunks

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; cheap, for tests and when idle."""
        promised = sum(s.n_reserved - s.n_past for s in self.running)
        assert self.slots.used_cells() + promised <= self.n_cells
        assert all(s.slot == WAITING for s in self._waiting)
        self.slots.check_integrity()
