"""Who runs next, and with how many tokens. Pure: knows nothing of threads, clocks, HTTP or llama.cpp.

Requests run in slots: sequences of one KV cache of `n_ctx` cells. A request is admitted, first come first
served, when a slot is free and the cells it may come to need (prompt and `max_tokens`) can be reserved,
so a running request can never run out of room. A slot keeps its tokens when its request ends: the next
one that begins alike need not compute them again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WAITING = -1


@dataclass(slots=True)
class Sequence:
    """A request's place in the KV cache.

    Attributes:
        id: the request's.
        tokens: prompt, then what was generated.
        n_reserved: cells it may need in all.
        slot: where it runs, or WAITING.
        n_past: how many of `tokens` are in the KV cache.
    """

    id: int
    tokens: list[int]
    n_reserved: int
    slot: int = WAITING
    n_past: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that begins to run: keep `keep` cells of its slot, and clear the slots of `evict`."""

    sequence: Sequence
    keep: int
    evict: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `stop` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        """Whether the sequence's next token can be chosen after this."""
        return self.stop == len(self.sequence.tokens)


@dataclass(slots=True)
class _Slot:
    """`cached` lists the tokens of an idle slot's cells; a running slot's are its sequence's."""

    running: Sequence | None = None
    cached: list[int] = field(default_factory=list)
    last_used: int = 0


class Scheduler:
    """First come, first served, over a fixed number of slots.

    Args:
        n_slots: requests that run at once.
        n_ctx: cells of the KV cache, shared by all slots.
        n_batch: most tokens in one step; at least `n_slots`.
    """

    def __init__(self, *, n_slots: int, n_ctx: int, n_batch: int) -> None:
        if not 1 <= n_slots <= n_batch:
            raise ValueError(f"{n_slots} slots do not fit into batches of {n_batch}")
        self.n_ctx, self.n_batch = n_ctx, n_batch
        self._slots = [_Slot() for _ in range(n_slots)]
        self._waiting: deque[Sequence] = deque()
        self._turn = 0

    @property
    def running(self) -> list[Sequence]:
        """Admitted sequences, in the order of their slots."""
        return [s.running for s in self._slots if s.running]

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
        """Take a sequence out, finished or not; its computed tokens stay cached in the slot."""
        if sequence.slot == WAITING:
            self._waiting.remove(sequence)
            return
        slot = self._slots[sequence.slot]
        slot.running, slot.cached = None, sequence.tokens[: sequence.n_past]
        sequence.slot = WAITING

    def forget(self, slot: int) -> None:
        """The slot's cells hold nothing (any more)."""
        self._slots[slot].cached = []

    def idle_slots(self) -> list[int]:
        """Slots that run nothing but still hold cells."""
        return [i for i, s in enumerate(self._slots) if not s.running and s.cached]

    def admit(self) -> list[Admission]:
        """Move waiting sequences into slots while both last."""
        admissions = []
        while self._waiting and (admission := self._place(self._waiting[0])):
            self._waiting.popleft()
            admissions.append(admission)
        return admissions

    def _place(self, sequence: Sequence) -> Admission | None:
        free = [i for i, s in enumerate(self._slots) if not s.running]
        room = self.n_ctx - sum(s.n_reserved for s in self.running)
        if not free or sequence.n_reserved > room:
            return None
        # The slot that saves most work; of equal ones, the one whose cache is oldest.
        shared = {i: common_prefix(self._slots[i].cached, sequence.tokens) for i in free}
        slot = max(free, key=lambda i: (shared[i], -self._slots[i].last_used))
        # The last prompt token is computed in any case: its logits choose the first new token.
        keep = min(shared[slot], len(sequence.tokens) - 1)

        room -= sequence.n_reserved
        evict = []
        others = sorted(
            (i for i in free if i != slot and self._slots[i].cached),
            key=lambda i: -self._slots[i].last_used,
        )
        for i in others:  # the most recently used caches stay as long as there is room
            room -= len(self._slots[i].cached)
            if room < 0:
                evict.append(i)
        for i in evict:
            self.forget(i)
        self._turn += 1
        self._slots[slot] = _Slot(running=sequence, last_used=self._turn)
        sequence.slot, sequence.n_past = slot, keep
        return Admission(sequence, keep, tuple(evict))

    def plan(self) -> list[Chunk]:
        """The next step's tokens: one for each sequence that generates, then prompts as far as they fit."""
        left = self.n_batch
        chunks = []
        running = sorted(self.running, key=lambda s: self._slots[s.slot].last_used)
        for prefill in (False, True):
            for s in running:
                pending = len(s.tokens) - s.n_past
                n = min(pending, left)
                if (pending > 1) is prefill and n:
                    chunks.append(Chunk(s, s.n_past, s.n_past + n))
                    left -= n
        return chunks

    def check_integrity(self) -> None:
        """Raise AssertionError where the books do not balance; cheap, for tests and when idle."""
        used = sum(s.n_reserved for s in self.running) + sum(
            len(s.cached) for s in self._slots if not s.running
        )
        assert used <= self.n_ctx, f"{used} cells promised of {self.n_ctx}"
        for i, s in enumerate(self._slots):
            if s.running:
                assert s.running.slot == i
                assert not s.cached
                assert s.running.n_past <= len(s.running.tokens) <= s.running.n_reserved
        assert all(s.slot == WAITING for s in self._waiting)


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two sequences begin with in common."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
