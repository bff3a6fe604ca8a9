"""Options of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings of an engine: slots, caches and draft tokens.

    Attributes:
        n_slots: number of requests that run at once; at most the decoder's `n_seq`.
        random_seed: makes the sequence of default seeds repeatable; None uses the system's entropy.
        drafts: whether to draft tokens.
        looks_ahead: whether an idle engine computes the completion that follows if the last one is accepted.
        prefix_cache_bytes: RAM for the prefix cache; 0 disables it.
        reuses: whether to reuse cached tokens that are not a prefix, which changes the logits slightly.
        shares: whether a request begins with the cached prefix of an earlier one. Without, its logits do not depend on
            what ran before.
        prefix_folder: folder that keeps the prefix cache across restarts; None keeps it in RAM only.
    """

    n_slots: int = 1
    random_seed: int | None = None
    drafts: bool = True
    looks_ahead: bool = False
    prefix_cache_bytes: int = 0
    reuses: bool = True
    shares: bool = True
    prefix_folder: Path | None = None
