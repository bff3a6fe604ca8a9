"""How an engine is set up. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is set up.

    Attributes:
        n_slots: requests that run at once; at most the decoder's `n_seq`.
        random_seed: makes the sequence of default seeds repeatable; None is the system's entropy.
        drafts: guess tokens ahead and compute them together.
        looks_ahead: go on with the last suggestion while nobody wants anything, for when it is taken.
        prefix_cache_bytes: RAM for computed prefixes that lost their place in the KV cache; 0 keeps none.
        prefix_folder: where they outlive the process; None is nowhere.
    """

    n_slots: int = 1
    random_seed: int | None = None
    drafts: bool = True
    looks_ahead: bool = False
    prefix_cache_bytes: int = 0
    prefix_folder: Path | None = None
