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
from typing import Protocol

from serve.engine.sequence import WAITING, Sequence
from serve.engine.slots import Slots

# Fewer computed tokens than this are not worth a copy, nor waiting for: they cost no more than a step or two.
WORTH_KEEPING = 32
# The oldest prompt gets at least this share of a step, however many shorter ones come.
OLDEST_SHARE = 4


class Store(Protocol):
    """Prefixes that are kept outside of the KV cache."""

    def longest(self, tokens: list[int]) -> tuple[int, int] | None:
        """(How many tokens it shares, its key); None where nothing begins alike."""

    def covers(self, tokens: list[int]) -> bool:
        """Whether all of these tokens are kept already."""


class NoStore:
    """Keeps nothing."""

    def longest(self, tokens: list[int]) -> tuple[int, int] | None:
        """Nothing."""
        return None

    def covers(self, tokens: list[int]) -> bool:
        """Everything: nothing needs to be kept."""
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that begins to run in `sequence.slot`, with its first `sequence.n_past` tokens computed.

    Attributes:
        sequence: it.
        save: slots whose tokens go into the store first, with those tokens.
        clear: slots to empty.
        source: the slot that holds the beginning; None is nobody.
        stored: the key of the stored prefix that holds the beginning, else None.
    """

    sequence: Sequence
    save: tuple[tuple[int, tuple[int, ...]], ...]
    clear: tuple[int, ...]
    source: int | None
    stored: int | None


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
        n_cells: int | None = None,
        n_outputs: int | None = None,
        can_cut: bool = True,
        store: Store | None = None,
    ) -> None:
        if not 1 <= n_slots <= n_batch:
            raise ValueError(f"{n_slots} slots do not fit into batches of {n_batch}")
        self.n_slots, self.n_ctx, self.n_batch = n_slots, n_ctx, n_batch
        self.n_cells = n_cells or n_ctx
        self._most_guesses = max(0, (n_outputs or n_slots) - n_slots)
        self._pooled = self.n_cells < n_slots * n_ctx
        self.slots = Slots(n_slots, pooled=self._pooled)
        self._can_cut = can_cut
        self._store = store or NoStore()
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

    def admit(self) -> Iterator[Admission]:
        """Move waiting sequences into slots while both last; those that only warm the cache come last.

        Each admission is to be carried out before the next is asked for, which may build on it.
        """
        for sequence in sorted(self._waiting, key=lambda s: s.idles):
            if not self.slots.free():
                break
            if self._will_share_more(sequence):
                continue
            admission = self._place(sequence)
            if admission is None:
                break  # nobody overtakes one that waits for room: it would wait for ever
            self._waiting.remove(sequence)
            yield admission

    def _will_share_more(self, sequence: Sequence) -> bool:
        """Whether a running prompt will soon hold clearly more of this one's beginning than anything does now."""
        if not self._can_cut:
            return False
        now, soon = 0, 0
        for slot, n in self.slots.shared(sequence.tokens[:-1]).items():
            s = self.slots.all[slot]
            now = max(now, min(n, s.n_held))
            if s.running and not s.running.generates and n >= WORTH_KEEPING:
                s.running.idles &= sequence.idles  # somebody waits for it now
                soon = max(soon, n)
        return soon >= now + WORTH_KEEPING

    def _place(self, sequence: Sequence) -> Admission | None:
        beginning = sequence.tokens[:-1]  # the last token is computed in any case, for its logits
        source, keep = self._best_slot(beginning)
        stored = self._store.longest(beginning)
        key = None
        if stored and stored[0] >= keep + WORTH_KEEPING:
            keep, key = stored
            source = None

        slot = self._target(source, keep)
        clear: list[int] = []
        if slot != source and self.slots.all[slot].cached:
            clear.append(slot)
        if self._pooled:
            room = self._make_room(sequence, slot, source, keep)
            if room is None:
                return None
            clear += room
        lost = [*clear, slot] if slot == source else clear
        save = tuple(
            (i, tuple(self.slots.all[i].cached))
            for i in lost
            if self._is_worth_saving(i, keep if i == source else 0)
        )
        for i in clear:
            self.slots.forget(i)
        sequence.n_past = keep
        self.slots.occupy(slot, sequence, source)
        return Admission(sequence, save, tuple(clear), source, key)

    def _best_slot(self, beginning: list[int]) -> tuple[int | None, int]:
        """The slot that holds most of the beginning, and how much; of equal ones a free one, which needs no copy."""
        best, keep = None, 0
        for slot, n in self.slots.shared(beginning).items():
            s = self.slots.all[slot]
            n = min(n, s.n_held)
            if not self._can_cut and (s.running or n < s.n_held):
                continue
            if s.running and n < WORTH_KEEPING:
                continue
            if n > keep or (n == keep and n and best is not None and self.slots.all[best].running):
                best, keep = slot, n
        return best, keep

    def _target(self, source: int | None, keep: int) -> int:
        """Where to run: in the source, unless it is taken or would lose much that another slot has room for."""
        free = self.slots.free()
        others = [i for i in free if i != source]
        empty = [i for i in others if not self.slots.all[i].cached]
        if source in free:
            loses = len(self.slots.all[source].cached) - keep
            if loses < WORTH_KEEPING or keep < WORTH_KEEPING or not self._can_cut:
                if keep or not empty:
                    return source
            elif not empty:
                oldest = min(others, key=lambda i: self.slots.all[i].last_used, default=source)
                source_is_oldest = (
                    self.slots.all[source].last_used <= self.slots.all[oldest].last_used
                )
                return source if source_is_oldest else oldest
        if empty:
            return empty[0]  # the first: llama.cpp computes neighbours together
        return min(others or free, key=lambda i: self.slots.all[i].last_used)

    def _make_room(
        self, sequence: Sequence, slot: int, source: int | None, keep: int
    ) -> list[int] | None:
        """Which idle slots to empty besides the target; None where the running ones leave too little.

        Every cell of the pool is looked at for every token that is computed, so what can come back from the store
        does not stay where others run.
        """
        promised = sum(s.n_reserved - s.n_past for s in self.running)
        needed = promised + sequence.n_reserved - (keep if source is not None else 0)
        cut = {slot: keep if slot == source else 0}
        evict = []
        for i in self.slots.idle():
            if i in (slot, source):
                continue
            if isinstance(self._store, NoStore):
                if self.slots.used_cells(cut) + needed <= self.n_cells:
                    break
            cut[i] = 0
            evict.append(i)
        return evict if self.slots.used_cells(cut) + needed <= self.n_cells else None

    def _is_worth_saving(self, slot: int, keep: int) -> bool:
        cached = self.slots.all[slot].cached
        return len(cached) - keep >= WORTH_KEEPING and not self._store.covers(cached)

    def plan(self, prompt_budget: int | None = None) -> list[Chunk]:
        """The next step's tokens: one for each sequence that generates, their guesses, then prompts.

        Args:
            prompt_budget: prompt tokens that may join where somebody's next token waits for the step.
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
        if generating and prompt_budget is not None:
            left = min(left, prompt_budget)
        return chunks + self._prompts(left)

    def plan_alone(self, sequence: Sequence) -> list[Chunk]:
        """A step for one running sequence and nobody else, without guesses."""
        stop = min(len(sequence.tokens), sequence.n_past + self.n_batch)
        return [Chunk(sequence, sequence.n_past, stop)]

    def _prompts(self, left: int) -> list[Chunk]:
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
        return [
            Chunk(s, s.n_past, s.n_past + shares[s.id]) for s in prompts if shares.get(s.id)
        ]

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; cheap, for tests and when idle."""
        promised = sum(s.n_reserved - s.n_past for s in self.running)
        assert self.slots.used_cells() + promised <= self.n_cells
        assert all(s.slot == WAITING for s in self._waiting)
        self.slots.check_integrity()
