"""Contents of the slots: the sequences of the KV cache.

A slot keeps its tokens when its request ends, so that the next request with this prefix need not compute them again. If
all slots share one pool of cells, a copy uses the same cells as its source; used cells are counted here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from serve.adapters import AdapterSet
from serve.engine.sequence import WAITING, Sequence
from serve.metrics import SlotState
from serve.prefix_tree import PrefixTree


@dataclass(slots=True)
class Slot:
    """One sequence of the KV cache.

    Attributes:
        running: the sequence that runs in the slot, if any.
        cached: tokens that an idle slot still holds.
        last_used: number of the latest admission to this slot; larger is later.
        cells: ids of the cells that it uses, if slots share a pool; copies use the same ids.
        adapters: LoRA adapters that its tokens were computed with.
    """

    running: Sequence | None = None
    cached: list[int] = field(default_factory=list)
    last_used: int = 0
    cells: list[int] = field(default_factory=list)
    adapters: AdapterSet = ()

    @property
    def n_held(self) -> int:
        """Number of tokens in the slot's cells."""
        return self.running.n_past if self.running else len(self.cached)


class Slots:
    """All slots, with a tree of the prefixes that they share.

    Args:
        n: number of slots.
        pooled: whether the slots share one pool of cells.

    Attributes:
        moved: slots whose tokens were moved since the last computation. They cannot be copied or saved yet: llama.cpp
            rotates the keys in its next computation.
    """

    def __init__(self, n: int, *, pooled: bool) -> None:
        self.all = [Slot() for _ in range(n)]
        self.pooled = pooled
        self.moved: set[int] = set()
        self._tree: PrefixTree[int] = PrefixTree()
        self._next_cell = 0
        self._turn = 0

    @property
    def running(self) -> list[Sequence]:
        """Running sequences, in the order of their slots."""
        return [s.running for s in self.all if s.running]

    def latest(self) -> list[Sequence]:
        """Return the running sequences, the latest admitted first."""
        slots = sorted(self.all, key=lambda s: s.last_used, reverse=True)
        return [s.running for s in slots if s.running]

    def states(self) -> tuple[SlotState, ...]:
        """Return the activity of each slot.

        Callable from any thread, without a lock: numbers of one slot may come from different steps. A slot that only
        looks ahead counts as free, because the next request takes it.
        """
        return tuple(_state(i, s, s.running) for i, s in enumerate(self.all))

    def free(self) -> list[int]:
        """Return the slots that have no running sequence."""
        return [i for i, s in enumerate(self.all) if not s.running]

    def idle(self) -> list[int]:
        """Return the free slots that still hold tokens, least recently used first."""
        held = [i for i in self.free() if self.all[i].cached]
        return sorted(held, key=lambda i: self.all[i].last_used)

    def shared(self, tokens: list[int], adapters: AdapterSet = ()) -> dict[int, int]:
        """Return for each slot how many leading tokens it holds, or will hold once computed; the most first.

        Slots whose tokens are computed with other adapters are left out.
        """
        return {
            slot: n
            for n, slots in self._tree.match(tokens)
            for slot in sorted(slots)
            if self.all[slot].adapters == adapters
        }

    def n_unique(self, slot: int, lost: Collection[int] = ()) -> int:
        """Return how many tokens of an idle slot are in no other slot, not counting the slots in `lost`.

        Edits to a document leave copies that differ in a few tokens.
        """
        s = self.all[slot]
        held = (
            min(n, self.all[i].n_held)
            for i, n in self.shared(s.cached, s.adapters).items()
            if i != slot and i not in lost
        )
        return len(s.cached) - max(held, default=0)

    def occupy(self, slot: int, sequence: Sequence, source: int | None) -> None:
        """Start a sequence in a slot, with `n_past` tokens that the slot holds or that are copied from `source`."""
        self._turn += 1
        s, keep = self.all[slot], sequence.n_past
        if self.pooled:
            s.cells = (self.all[source].cells if source is not None else s.cells)[:keep]
        s.running, s.cached, s.last_used = sequence, [], self._turn
        s.adapters = sequence.request.adapters
        self._tree.insert(slot, sequence.tokens)
        sequence.slot = slot
        self._grown(sequence)

    def release(self, sequence: Sequence) -> None:
        """Free the slot of a sequence that ends; its computed tokens stay cached."""
        s = self.all[sequence.slot]
        s.running, s.cached = None, sequence.tokens[: sequence.n_past]
        del s.cells[sequence.n_past :]
        self._tree.insert(sequence.slot, s.cached)
        sequence.slot = WAITING

    def forget(self, slot: int) -> None:
        """Mark a free slot as empty."""
        self.all[slot].cached = []
        self.all[slot].cells = []
        self._tree.remove(slot)

    def is_alone(self, slot: int) -> bool:
        """Return whether no other slot uses a cell of this slot."""
        if not self.pooled:
            return True
        others = (s.cells for i, s in enumerate(self.all) if i != slot)
        return set(self.all[slot].cells).isdisjoint(set[int]().union(*others))

    def move(self, slot: int, pieces: Collection[tuple[int, int]]) -> None:
        """Record that an idle slot holds only these pieces (first position, number of tokens), one after the other."""
        self.moved.add(slot)
        s = self.all[slot]
        s.cached = [t for start, n in pieces for t in s.cached[start : start + n]]
        s.cells = [c for start, n in pieces for c in s.cells[start : start + n]]

    def reset(self, sequence: Sequence) -> None:
        """Record that the KV cache holds no tokens of a running sequence."""
        sequence.n_past = 0
        self.all[sequence.slot].cells = []

    def computed(self, sequence: Sequence, n_past: int) -> None:
        """Record how many tokens of a running sequence are in the KV cache; the number may grow or shrink."""
        sequence.n_past = n_past
        self.moved.clear()
        self._grown(sequence)

    def _grown(self, sequence: Sequence) -> None:
        if not self.pooled:
            return
        cells = self.all[sequence.slot].cells
        more = sequence.n_past - len(cells)
        if more > 0:
            cells.extend(range(self._next_cell, self._next_cell + more))
            self._next_cell += more
        else:
            del cells[sequence.n_past :]

    def used_cells(self, cut: Mapping[int, int] = MappingProxyType({})) -> int:
        """Count the cells that hold tokens, as if each slot in `cut` were shortened to the given number of tokens."""
        if self.pooled:
            held = (s.cells[: cut.get(i)] for i, s in enumerate(self.all))
            return len(set[int]().union(*held))
        return sum(min(s.n_held, cut.get(i, s.n_held)) for i, s in enumerate(self.all))

    def check_integrity(self) -> None:
        """Raise AssertionError if the state is inconsistent."""
        for i, s in enumerate(self.all):
            if s.running:
                assert s.running.slot == i
                assert not s.cached
                assert 0 <= s.running.n_past <= len(s.running.tokens) <= s.running.n_reserved
            assert not self.pooled or len(s.cells) == s.n_held
            assert (i in self._tree) == bool(s.running or s.cached)


def _state(index: int, slot: Slot, running: Sequence | None) -> SlotState:
    """Return the state of a slot; `running` is read once, because the request may end at any time."""
    if running is None or running.is_ours:
        return SlotState(index, running.n_past if running else len(slot.cached))
    return SlotState(
        index,
        running.n_past,
        running.id,
        n_cached=running.n_cached,
        n_prefilled=max(0, running.n_prompt_held - running.n_cached),
        n_decoded=max(0, running.n_new),
        n_left=max(0, running.n_left),
        has_line=running.has_line,
    )
