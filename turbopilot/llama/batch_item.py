"""A token of a batch. Needs no llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One token of a batch: its position in its sequence, and whether its logits are wanted."""

    token: int
    pos: int
    seq: int
    want_logits: bool
