"""Draft tokens for speculative decoding, from earlier completions, repeated text or a draft model."""

from serve.drafting.drafter import Draft, DraftCounts, Drafter
from serve.drafting.model import DraftModel, DraftWish, check_same_vocabulary

__all__ = ["Draft", "DraftCounts", "DraftModel", "DraftWish", "Drafter", "check_same_vocabulary"]
