"""Admission of requests to slots, with the best cached prefix for each.

Requests run in slots: sequences of one KV cache. They are admitted first come, first served, when a slot is free and
the cells that the request may need (prompt and `max_tokens`) can be reserved, so a running request never runs out of
room. A request begins with the longest cached prefix of its tokens, from its slot, another slot or the prefix cache, or
with cached tokens that are not a prefix (see `serve.engine.reuse`). If a prompt that is being prefilled shares a longer
prefix, the request waits for that prefix instead of computing it again, and later requests may overtake it.

Only requests of the first rank run (see `Rank`); the others return to the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from serve.adapters import AdapterSet
from serve.decoder import Decoder
from serve.engine.prefix_store import PrefixStore
from serve.engine.reuse import find_slot
from serve.engine.sequence import WAITING, Sequence
from serve.engine.slots import Slots
from serve.request import Rank

# Minimum number of tokens that are worth a copy: computing fewer takes only a step or two.
WORTH_KEEPING = 32
# Minimum number of tokens for which a request moves to another slot instead of overwriting them. A completion that was
# not accepted, and the tokens computed ahead of it, are shorter and should not evict another file's prefix.
WORTH_A_SLOT = 128
# Minimum number of additional tokens for which a request waits until a running prompt has computed them.
WORTH_WAITING = 8


class Scheduler:
    """First-come-first-served queue for a fixed number of slots.

    Args:
        decoder: the model whose KV cache holds the slots.
        n_slots: number of requests that run at once; at most the decoder's `n_batch`.
        store: cached prefixes outside the KV cache.
        reuses: whether to reuse cached tokens that are not a prefix.
        shares: whether to begin with a cached prefix.
    """

    def __init__(
        self,
        decoder: Decoder,
        n_slots: int,
        store: PrefixStore,
        *,
        reuses: bool = False,
        shares: bool = True,
    ) -> None:
        if not 1 <= n_slots <= decoder.n_batch:
            raise ValueError(f"{n_slots} slots do not fit into batches of {decoder.n_batch}")
        self._decoder, self._can_cut = decoder, decoder.can_cut
        self._reuses, self._shares = reuses and shares and decoder.can_cut, shares
        self._store = store
        self.slots = Slots(n_slots, pooled=decoder.n_cells < n_slots * decoder.n_ctx)
        self._waiting: deque[Sequence] = deque()

    @property
    def n_waiting(self) -> int:
        """Number of queued sequences, which are not admitted yet."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether any sequence is queued or running."""
        return bool(self._waiting or self.slots.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, which must fit into the context."""
        if not 1 <= len(sequence.tokens) <= sequence.n_reserved <= self._decoder.n_ctx:
            raise ValueError(
                f"sequence {sequence.id} does not fit into {self._decoder.n_ctx} cells"
            )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Remove a queued or running sequence; its computed tokens stay in the slot."""
        if sequence.slot == WAITING:
            self._waiting.remove(sequence)
        else:
            self.slots.release(sequence)

    def admit(self) -> Iterator[Sequence]:
        """Move queued sequences of the first rank into free slots, and running ones of later ranks into the queue."""
        first = self.first_rank
        for sequence in self.slots.latest():
            if sequence.rank > first:
                self._put_back(sequence)
        for sequence in [s for s in self._waiting if s.rank == first]:
            if not self.slots.free():
                break
            if self._will_share_more(sequence):
                continue
            if not self._place(sequence):
                break  # no sequence overtakes one that waits for room, which would be starved
            yield sequence

    @property
    def first_rank(self) -> Rank:
        """Rank of the sequences that may run: the first of all ranks. AHEAD if the engine has no sequence."""
        return min((s.rank for s in (*self._waiting, *self.slots.running)), default=Rank.AHEAD)

    def _put_back(self, sequence: Sequence) -> None:
        """Return a running sequence to the queue; its tokens stay cached, so that it need not begin again."""
        self.slots.release(sequence)
        sequence.n_past = sequence.n_restored = sequence.n_moved = 0
        sequence.draft = []
        self._waiting.appendleft(sequence)

    def _will_share_more(self, sequence: Sequence) -> bool:
        """Return whether a running prompt will soon hold a longer prefix of the sequence than any slot does now.

        The prefix must be at least WORTH_WAITING tokens longer.
        """
        if not (self._can_cut and self._shares) or sequence.n_scored:
            return False
        now, soon = 0, 0
        shared = self.slots.shared(sequence.tokens[:-1], sequence.request.adapters)
        for slot, n in shared.items():
            s = self.slots.all[slot]
            now = max(now, min(n, s.n_held))
            if s.running and not s.running.generates and n >= WORTH_KEEPING:
                soon = max(soon, n)
        return soon >= now + WORTH_WAITING

    def _place(self, sequence: Sequence) -> bool:
        """Put a queued sequence into a slot; return False if there is no room for it yet. A slot must be free."""
        # The last token is always computed, for its logits; so are all tokens that are scored.
        prefix = sequence.tokens[:-1] if self._shares and not sequence.n_scored else []
        source, keep = self._best_slot(prefix, sequence.request.adapters)
        stored = self._store.longest(prefix, sequence.request.adapters)
        key = None
        if stored and stored[0] >= keep + WORTH_KEEPING:
            keep, key = stored
            source = None
        if self._reuses and (found := find_slot(sequence, keep, self.slots, self._decoder)):
            slot, reuse = found
            source, keep, key = slot, reuse.n, None
            sequence.extend(reuse.tokens)
        else:
            slot, reuse = self._target(source, keep), None
        if slot != source and key is None and keep < WORTH_KEEPING:
            source, keep = None, 0  # a short common prefix is not worth a copy
        room: list[int] | None = []
        if self.slots.pooled:
            room = self._make_room(sequence, slot, source, keep)
            if room is None and source is not None and source in self.slots.free():
                slot = source  # a copy does not fit
                room = self._make_room(sequence, slot, source, keep)
        if room is None:
            if reuse:
                generated = sequence.tokens[sequence.n_prompt :]
                sequence.extend([*sequence.request.prompt, *generated])
            return False
        clear = [slot, *room] if slot != source and self.slots.all[slot].cached else room
        lost = [*clear, slot] if slot == source else clear
        save = [
            (i, self.slots.all[i].cached, self.slots.all[i].adapters)
            for i in lost
            if self._is_worth_saving(i, keep if i == source else 0, lost)
        ]
        for i in clear:
            self.slots.forget(i)
        if reuse and reuse.is_moved:
            self.slots.move(slot, reuse.pieces)
            sequence.n_moved = keep
        self._waiting.remove(sequence)
        sequence.n_past = keep
        self.slots.occupy(slot, sequence, source)
        # Read before other prefixes are stored, since these might evict it.
        state = None if key is None else self._store.get(key)
        for i, tokens, adapters in save:
            self._store.put(tokens, self._decoder.save(i), adapters)
        for i in clear:
            self._decoder.remove(i, 0)
        if reuse and reuse.is_moved:  # after the slot's state was saved
            self._decoder.move(slot, reuse.pieces)
        self._fetch_prefix(sequence, source, key, state)
        return True

    def _fetch_prefix(
        self, sequence: Sequence, source: int | None, key: int | None, state: bytes | None
    ) -> None:
        """Bring the first `n_past` tokens into the sequence's slot: from the store, or as a copy of another slot.

        If that fails, the sequence begins with an empty slot.

        Args:
            sequence: an admitted sequence.
            source: the slot that holds the prefix, if any; it may be the sequence's slot.
            key: the key of the stored prefix, if it comes from the store.
            state: that prefix's state; None if it was dropped.
        """
        slot, decoder, done = sequence.slot, self._decoder, True
        if key is not None:
            done = bool(state) and decoder.restore(slot, state or b"")
            if not done:
                self._store.drop(key)
        elif source is not None and source != slot:
            done = decoder.copy(source, slot, sequence.n_past)
        if not (done and decoder.remove(slot, sequence.n_past)):
            decoder.remove(slot, 0)  # a recurrent state cannot be cut: start from an empty slot
            self.slots.reset(sequence)
        elif key is not None:
            sequence.n_restored = sequence.n_past

    def _best_slot(self, prefix: list[int], adapters: AdapterSet) -> tuple[int | None, int]:
        """Return the slot that holds most of the prefix, computed with these adapters, and how many of its tokens.

        Of equal slots, prefer a free one, which needs no copy.
        """
        best, keep = None, 0
        for slot, n in self.slots.shared(prefix, adapters).items():
            s = self.slots.all[slot]
            n = min(n, s.n_held)
            if slot in self.slots.moved:
                continue
            if not self._can_cut and (s.running or n < s.n_held):
                continue
            if s.running and n < WORTH_KEEPING:
                continue
            if n > keep or (n == keep and n and best is not None and self.slots.all[best].running):
                best, keep = slot, n
        return best, keep

    def _target(self, source: int | None, keep: int) -> int:
        """Return the slot to run in.

        This is the source, unless it is taken, or would lose many tokens while another slot is available.
        """
        free = self.slots.free()
        others = [i for i in free if i != source]
        empty = [i for i in others if not self.slots.all[i].cached]
        if source in free:
            loses = len(self.slots.all[source].cached) - keep
            if loses < (WORTH_KEEPING if empty else WORTH_A_SLOT) or not self._can_cut:
                return source
            others = free
        if empty:
            return empty[0]  # the first: llama.cpp computes neighbouring sequences together
        return min(
            others or free,
            key=lambda i: (self.slots.n_unique(i) >= WORTH_KEEPING, self.slots.all[i].last_used),
        )

    def _make_room(
        self, sequence: Sequence, slot: int, source: int | None, keep: int
    ) -> list[int] | None:
        """Return the idle slots to clear besides the target; None if the running sequences leave too little room.

        Attention for each new token reads every cell of the pool. Idle slots are therefore cleared even if there is
        room, if the prefix store can restore them.
        """
        promised = sum(s.n_reserved - s.n_past for s in self.slots.running)
        needed = promised + sequence.n_reserved - (keep if source is not None else 0)
        cut = {slot: keep if slot == source else 0}
        evict = []
        for i in self.slots.idle():
            if i in (slot, source):
                continue
            fits = self.slots.used_cells(cut) + needed <= self._decoder.n_cells
            if fits and not self._store.keeps:
                break
            cut[i] = 0
            evict.append(i)
        return evict if self.slots.used_cells(cut) + needed <= self._decoder.n_cells else None

    def _is_worth_saving(self, slot: int, keep: int, lost: Collection[int]) -> bool:
        """Return whether a slot that will keep only its first `keep` tokens holds others worth storing."""
        if not self._store.keeps or slot in self.slots.moved:
            return False
        s = self.slots.all[slot]
        loses = len(s.cached) - keep if keep else self.slots.n_unique(slot, lost)
        is_worth = loses >= (WORTH_A_SLOT if keep else WORTH_KEEPING)
        return is_worth and not self._store.covers(s.cached, s.adapters)

    def save_idle(self) -> None:
        """Store the tokens of the idle slots, before the server stops."""
        for slot in self.slots.idle():
            s = self.slots.all[slot]
            is_whole = self._store.keeps and slot not in self.slots.moved
            is_worth = is_whole and len(s.cached) >= WORTH_KEEPING
            if is_worth and not self._store.covers(s.cached, s.adapters):
                self._store.put(s.cached, self._decoder.save(slot), s.adapters)

    def check_integrity(self) -> None:
        """Raise AssertionError if the state is inconsistent."""
        promised = sum(s.n_reserved - s.n_past for s in self.slots.running)
        assert self.slots.used_cells() + promised <= self._decoder.n_cells
        assert all(s.slot == WAITING for s in self._waiting)
        self.slots.check_integrity()
