"""From requests to events, one batch at a time. Pure: no threads, sockets or llama.cpp; the clock is a parameter.

engine        the step: expire, admit, draft, compute, choose
requests      all that have begun and not ended; the next token of texts that were continued before
sequence      one request: its tokens, sampler, text and draft
scheduler     who runs, where, and with which cached prefix
planner       which tokens a step computes, and how long steps take
slots         what each sequence of the KV cache holds
prefix_store  prefixes kept in RAM, and on disk across restarts
recovery      which requests go on when the decoder fails
"""

from serve.engine.engine import Engine, EngineOptions
from serve.engine.requests import Emitted

__all__ = ["Emitted", "Engine", "EngineOptions"]
