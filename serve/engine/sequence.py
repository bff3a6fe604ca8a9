"""A request's tokens and how far they are computed. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

WAITING = -1


@dataclass(slots=True)
class Sequence:
    """A request's place in the KV cache.

    Attributes:
        id: the request's.
        tokens: prompt, then what was generated.
        n_reserved: cells it may need in all.
        idles: it only warms the cache, and gets what the others leave.
        n_scored: logits are wanted after each of its first so many tokens, which judge the next.
        slot: where it runs, or WAITING.
        n_past: how many of `tokens` are in the KV cache.
        draft: guesses of what follows `tokens`, to be computed with the last of them.
    """

    id: int
    tokens: list[int]
    n_reserved: int
    idles: bool = False
    n_scored: int = 0
    slot: int = WAITING
    n_past: int = 0
    draft: list[int] = field(default_factory=list)

    @property
    def n_pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.n_past

    @property
    def generates(self) -> bool:
        """Whether one more token's computation gives the next."""
        return self.n_pending == 1
