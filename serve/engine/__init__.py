"""The engine: takes requests, runs one model batch by batch, and emits events.

It has no threads or sockets, uses llama.cpp only through the `Decoder` interface, and takes the clock as a parameter.

engine        one step: expire, admit, draft, compute, choose
requests      active requests, and the answer cache
sequence      one request: its tokens, sampler, text and draft
scheduler     admission of requests to slots, and the choice of a cached prefix
planner       choice of each step's tokens, and estimates of how long steps take
slots         contents of each sequence in the KV cache
prefix_store  cached prefixes in RAM, and on disk across restarts
recovery      handling of decoder failures
"""

from serve.engine.engine import Engine
from serve.engine.options import EngineOptions
from serve.engine.requests import Emitted

__all__ = ["Emitted", "Engine", "EngineOptions"]
