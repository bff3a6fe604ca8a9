"""From a server's options to its models: headers are read, so that what can be wrong is told before anything is loaded.

Knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from serve.models import Loadable, ModelPool
from serve.models.loaded_model import load_model
from serve.models.room import megabytes
from serve.models.service import ModelInfo
from serve.runner.compute_lock import Turns
from serve.settings import IDLE_SECONDS, NamedModel, ServerOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.footprint import memory_budget

log = logging.getLogger("turbopilot.models")


def make_pool(options: ServerOptions, notify: Callable[[str], None]) -> ModelPool:
    """All models of the options; none is loaded yet.

    Args:
        options: see `ServerOptions`.
        notify: gets lines for a person when the default model is loaded; of the others the log tells.

    Raises:
        InvalidInput: a file cannot be served so, two have the same name, or one is larger than the memory for all.
    """
    said = options.pool.memory
    memory = memory_budget() if said is None else said
    turns = Turns() if options.more else None
    default = NamedModel(options.model_name, options.model_file)
    loadables: list[Loadable] = []
    for i, model in enumerate((default, *options.more)):
        mine = options.of(model) if i else options
        found = _loadable(mine, notify if i == 0 else log.info, turns)
        if any(found.info.name == other.info.name for other in loadables):
            raise InvalidInput(
                f"two models are called {found.info.name}",
                hint="give each a name of its own: --model NAME=FILE",
            )
        if found.n_bytes > memory and said is not None:
            raise InvalidInput(
                f"{model.file}: takes about {megabytes(found.n_bytes)}, and --model-memory is {megabytes(memory)}",
                hint="give the models more, or a smaller --ctx",
            )
        # Alone it is tried, as it always was: llama.cpp may yet find room for it.
        found = replace(
            found, n_bytes=min(found.n_bytes, memory), idle=_idle(options, is_default=i == 0)
        )
        loadables.append(found)
    return ModelPool(loadables, memory=memory, max_waiting=options.limits.max_queue)


def _loadable(
    options: ServerOptions, notify: Callable[[str], None], turns: Turns | None
) -> Loadable:
    from serve.llama.facts import choose_context, memory_bytes, model_name

    header = read_gguf(options.model_file)
    check_model(header)
    name = options.model_name or model_name(header)
    tokens = header.metadata["tokenizer.ggml.tokens"]
    n_vocab = len(tokens) if isinstance(tokens, list) else 0
    info = ModelInfo(name, choose_context(header, options.model.ctx), n_vocab, int(time.time()))
    n_bytes = memory_bytes(header, options.model, options.caches.prefix_bytes)
    if draft := options.caches.draft_file:
        small = replace(options.model, ctx=None)
        n_bytes += memory_bytes(read_gguf(draft), small, 0)
    return Loadable(
        info, n_bytes, partial(load_model, replace(options, model_name=name), notify, turns)
    )


def _idle(options: ServerOptions, *, is_default: bool) -> float | None:
    said = options.pool.idle
    if said is None:
        return None if is_default else IDLE_SECONDS
    return said or None
