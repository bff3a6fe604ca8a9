"""Guessing tokens ahead, for the model to check together. Knows nothing of llama.cpp, threads or HTTP."""

from serve.drafting.drafter import Draft, Drafter
from serve.drafting.model import DraftModel, Wanted, check_same_vocabulary

__all__ = ["Draft", "DraftModel", "Drafter", "Wanted", "check_same_vocabulary"]
