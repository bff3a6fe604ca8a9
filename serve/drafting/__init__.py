"""Guessing tokens ahead, for the model to check together. Knows nothing of llama.cpp, threads or HTTP."""

from serve.drafting.drafter import Draft, Drafter

__all__ = ["Draft", "Drafter"]
