"""Tokens of a batch, importable without llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One token of a batch, at a position in a sequence."""

    token: int
    pos: int
    seq: int
    want_logits: bool
