"""From requests to events, one batch at a time. Pure: knows nothing of HTTP, threads, sockets or llama.cpp.

engine      the step: expire, admit, guess, compute, choose
requests    all that have begun and not ended: the way in, and the one way out
generation  one request under way: its sampler, its text, its guesses
scheduler   who runs next, and with how many tokens
placement   where it runs, and what it begins with
guessing    what it may guess ahead
slots       what each sequence of the KV cache holds, and what it shares
prefix_tree the longest beginning that a prompt shares with anything computed before
prefix_store computed prefixes kept in RAM, and on disk across restarts
known       the next token of texts that were continued before
recovery    who goes on when the decoder fails
pace        how long a batch takes, learned
"""

from serve.engine.engine import Engine
from serve.engine.options import EngineOptions
from serve.engine.requests import Emitted

__all__ = ["Emitted", "Engine", "EngineOptions"]
