"""Who runs next, where, and with which cached prefix.

Requests run in slots: sequences of one KV cache. A request is admitted, first come first served, when a slot is
free and the cells that it may need (prompt and `max_tokens`) can be reserved, so a running request never runs out of
room. It begins with the longest prefix of its tokens that is computed already: in its own slot, in another one, or in
the store. One that shares a longer prefix with a prompt that is being computed right now waits for that instead of
computing it a second time; others go past it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from serve.decoder import Decoder
from serve.engine.prefix_store import PrefixStore
from serve.engine.sequence import WAITING, Sequence
from serve.engine.slots import Slots

# Fewer computed tokens than this are not worth a copy: to compute them takes no more than a step or two.
WORTH_KEEPING = 32
# Fewer than this are not worth another slot's place: a completion that was not accepted, and what was computed ahead of
# it, are no reason to lose another file.
WORTH_A_SLOT = 128
# More tokens than this are worth a step's waiting, if a running prompt will have computed them soon.
WORTH_WAITING = 8


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that begins to run in `sequence.slot`, with its first `sequence.n_past` tokens computed.

    Attributes:
        sequence: who begins.
        save: slots whose tokens go into the store first, with those tokens.
        clear: slots to empty.
        source: the slot that holds the prefix, if any.
        stored: the key of the stored prefix that holds it, if any.
    """

    sequence: Sequence
    save: tuple[tuple[int, tuple[int, ...]], ...]
    clear: tuple[int, ...]
    source: int | None
    stored: int | None


class Scheduler:
    """First come, first served, over a fixed number of slots.

    Args:
        decoder: its sizes count; it is not called.
        n_slots: requests that run at once; at most the decoder's `n_batch`.
        store: prefixes outside of the KV cache.
    """

    def __init__(self, decoder: Decoder, n_slots: int, store: PrefixStore) -> None:
        if not 1 <= n_slots <= decoder.n_batch:
            raise ValueError(f"{n_slots} slots do not fit into batches of {decoder.n_batch}")
        self._n_ctx, self._n_cells, self._can_cut = (
            decoder.n_ctx,
            decoder.n_cells,
            decoder.can_cut,
        )
        self._store = store
        self.slots = Slots(n_slots, pooled=decoder.n_cells < n_slots * decoder.n_ctx)
        self._waiting: deque[Sequence] = deque()

    @property
    def n_waiting(self) -> int:
        """Sequences that are not admitted yet."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self.slots.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the context on its own."""
        if not 1 <= len(sequence.tokens) <= sequence.n_reserved <= self._n_ctx:
            raise ValueError(f"sequence {sequence.id} does not fit into {self._n_ctx} cells")
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, finished or not; its computed tokens stay in the slot."""
        if sequence.slot == WAITING:
            self._waiting.remove(sequence)
        else:
            self.slots.release(sequence)

    def admit(self) -> Iterator[Admission]:
        """Move waiting sequences into slots while both last; those that only warm the cache come last.

        Carry out each admission before asking for the next, which may build on it.
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
        """Whether a running prompt will soon hold clearly more of this one's prefix than anything does now."""
        if not self._can_cut or sequence.n_scored:
            return False
        now, soon = 0, 0
        for slot, n in self.slots.shared(sequence.tokens[:-1]).items():
            s = self.slots.all[slot]
            now = max(now, min(n, s.n_held))
            if s.running and not s.running.generates and n >= WORTH_KEEPING:
                s.running.idles &= sequence.idles  # somebody waits for it now
                soon = max(soon, n)
        return soon >= now + WORTH_WAITING

    def _place(self, sequence: Sequence) -> Admission | None:
        """Put a waiting sequence into a slot; None if there is no room for it yet. Some slot must be free."""
        # The last token is computed in any case, for its logits; and all that are judged.
        prefix = [] if sequence.n_scored else sequence.tokens[:-1]
        source, keep = self._best_slot(prefix)
        stored = self._store.longest(prefix)
        key = None
        if stored and stored[0] >= keep + WORTH_KEEPING:
            keep, key = stored
            source = None

        slot = self._target(source, keep)
        if slot != source and key is None and keep < WORTH_KEEPING:
            source, keep = None, 0  # a few tokens in common are not worth a copy
        clear: list[int] = []
        if slot != source and self.slots.all[slot].cached:
            clear.append(slot)
        if self.slots.pooled:
            room = self._make_room(sequence, slot, source, keep)
            if room is None:
                return None
            clear += room
        lost = [*clear, slot] if slot == source else clear
        save = tuple(
            (i, tuple(self.slots.all[i].cached))
            for i in lost
            if self._is_worth_saving(i, keep if i == source else 0, lost)
        )
        for i in clear:
            self.slots.forget(i)
        sequence.n_past = keep
        self.slots.occupy(slot, sequence, source)
        return Admission(sequence, save, tuple(clear), source, key)

    def _best_slot(self, prefix: list[int]) -> tuple[int | None, int]:
        """The slot that holds most of the prefix, and how much; of equal ones a free one, which needs no copy."""
        best, keep = None, 0
        for slot, n in self.slots.shared(prefix).items():
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
            if loses < (WORTH_KEEPING if empty else WORTH_A_SLOT) or not self._can_cut:
                return source
            others = free
        if empty:
            return empty[0]  # the first: llama.cpp computes neighbours together
        return min(
            others or free,
            key=lambda i: (self._n_unique(i) >= WORTH_KEEPING, self.slots.all[i].last_used),
        )

    def _n_unique(self, slot: int, lost: Collection[int] = ()) -> int:
        """Tokens of an idle slot that no other holds, except those that are lost with it.

        A document that is edited leaves copies behind that differ in a few tokens.
        """
        cached = self.slots.all[slot].cached
        held = (
            min(n, self.slots.all[i].n_held)
            for i, n in self.slots.shared(cached).items()
            if i != slot and i not in lost
        )
        return len(cached) - max(held, default=0)

    def _make_room(
        self, sequence: Sequence, slot: int, source: int | None, keep: int
    ) -> list[int] | None:
        """Which idle slots to empty besides the target; None if the running ones leave too little.

        Every cell of the pool is looked at for every token that is computed, so what can come back from the store
        does not stay while others run.
        """
        promised = sum(s.n_reserved - s.n_past for s in self.slots.running)
        needed = promised + sequence.n_reserved - (keep if source is not None else 0)
        cut = {slot: keep if slot == source else 0}
        evict = []
        for i in self.slots.idle():
            if i in (slot, source):
                continue
            fits = self.slots.used_cells(cut) + needed <= self._n_cells
            if fits and not self._store.keeps:
                break
            cut[i] = 0
            evict.append(i)
        return evict if self.slots.used_cells(cut) + needed <= self._n_cells else None

    def _is_worth_saving(self, slot: int, keep: int, lost: Collection[int]) -> bool:
        """Whether a slot that is to hold only its first `keep` tokens holds what would be missed."""
        if not self._store.keeps:
            return False
        cached = self.slots.all[slot].cached
        if keep:
            loses = len(cached) - keep
            return loses >= WORTH_A_SLOT and not self._store.covers(cached)
        return self._n_unique(slot, lost) >= WORTH_KEEPING and not self._store.covers(cached)

    def check_integrity(self) -> None:
        """Raise AssertionError if the books do not balance; cheap, for tests and when idle."""
        promised = sum(s.n_reserved - s.n_past for s in self.slots.running)
        assert self.slots.used_cells() + promised <= self._n_cells
        assert all(s.slot == WAITING for s in self._waiting)
        self.slots.check_integrity()
