"""Where a sequence runs, and what it begins with. Pure: knows nothing of threads, clocks, HTTP or llama.cpp.

A sequence begins with the longest beginning of its tokens that is computed already: in a free slot, in a running
one, or in the store.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from serve.engine.sequence import Sequence
from serve.engine.slots import Slots

# Fewer computed tokens than this are not worth a copy: to compute them takes no more than a step or two.
WORTH_KEEPING = 32
# Fewer than this are not worth another slot's place: a suggestion that was not taken, and what was computed ahead of
# it, are no reason to lose another file.
WORTH_A_SLOT = 128
# More tokens than this are worth a step's waiting, where a running prompt will have computed them soon.
WORTH_WAITING = 8


class Store(Protocol):
    """Prefixes that are kept outside of the KV cache."""

    @property
    def keeps(self) -> bool:
        """Whether it keeps anything at all."""

    def longest(self, tokens: list[int]) -> tuple[int, int] | None:
        """(How many tokens it shares, its key); None where nothing begins alike."""

    def covers(self, tokens: list[int]) -> bool:
        """Whether all of these tokens are kept already."""


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


class Placement:
    """Finds places.

    Args:
        slots: the KV cache's.
        n_cells: its cells.
        pooled: whether the slots share them.
        can_cut: whether a sequence can forget a part of its tokens.
        store: prefixes outside of the KV cache.
    """

    def __init__(
        self, slots: Slots, *, n_cells: int, pooled: bool, can_cut: bool, store: Store
    ) -> None:
        self.slots = slots
        self._n_cells, self._pooled, self._can_cut = n_cells, pooled, can_cut
        self._store = store

    def will_share_more(self, sequence: Sequence) -> bool:
        """Whether a running prompt will soon hold clearly more of this one's beginning than anything does now."""
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

    def place(self, sequence: Sequence) -> Admission | None:
        """Put a waiting sequence into a slot; None where there is no room for it yet. Some slot must be free."""
        # The last token is computed in any case, for its logits; and all that are judged.
        beginning = [] if sequence.n_scored else sequence.tokens[:-1]
        source, keep = self._best_slot(beginning)
        stored = self._store.longest(beginning)
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
        if self._pooled:
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
        """Tokens of an idle slot that no other holds, those aside that are lost with it.

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
        """Which idle slots to empty besides the target; None where the running ones leave too little.

        Every cell of the pool is looked at for every token that is computed, so what can come back from the store
        does not stay where others run.
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
