"""Who runs next, and where. Pure: knows nothing of threads, clocks, HTTP or llama.cpp.

Requests run in slots: sequences of one KV cache. A request is admitted, first come first served, when a slot is
free and the cells it may come to need (prompt and `max_tokens`) can be reserved, so a running request can never
run out of room. It begins with the longest beginning of its tokens that is computed already: in its own slot, in
another one, or in the store. One that shares a longer beginning with a prompt that is being computed right now
waits for that instead of computing it a second time; others go past it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from serve.engine.placement import Admission, Placement, Store
from serve.engine.planner import Planner
from serve.engine.sequence import WAITING, Sequence
from serve.engine.slots import Slots


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
        self.n_ctx = n_ctx
        self.n_cells = n_cells or n_ctx
        pooled = self.n_cells < n_slots * n_ctx
        self.slots = Slots(n_slots, pooled=pooled)
        self._placement = Placement(
            self.slots, n_cells=self.n_cells, pooled=pooled, can_cut=can_cut, store=store
        )
        self.planner = Planner(
            self.slots,
            pooled=pooled,
            n_batch=n_batch,
            most_guesses=max(0, (n_outputs or n_slots) - n_slots),
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

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; cheap, for tests and when idle."""
        promised = sum(s.n_reserved - s.n_past for s in self.running)
        assert self.slots.used_cells() + promised <= self.n_cells
        assert all(s.slot == WAITING for s in self._waiting)
        self.slots.check_integrity()
