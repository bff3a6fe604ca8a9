"""Loading of models from the server's options.

The headers of all model files are read first, so that errors appear before any model is loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from hashlib import sha256

from serve.adapters import AdapterScales
from serve.engine import Engine, EngineOptions
from serve.model_choice import NamedModel
from serve.models.pool import ModelPool
from serve.models.pooled_model import PooledModel, megabytes
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.prompt.next_edit import recognize
from serve.runner import EngineRunner
from serve.runner.compute_lock import ComputeLock
from serve.settings import IDLE_SECONDS, Limits, ServerOptions, TextOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.check_adapter import check_adapter
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.footprint import memory_budget
from turbopilot.llama.geometry import header_geometry
from turbopilot.llama.placement_wish import Machine

log = logging.getLogger("turbopilot.serve")  # that of the lines at the start


def make_pool(options: ServerOptions, notify: Callable[[str], None]) -> ModelPool:
    """Return a pool of all models in the options; none is loaded yet.

    Args:
        options: all settings of the server.
        notify: called with status lines while the default model is loaded; those of other models are logged.

    Raises:
        InvalidInput: a file cannot be served, two models have the same name, or one does not fit --model-memory.
    """
    from serve.llama.facts import prefix_bytes
    from turbopilot.llama.fitting import find_devices, machine

    free = machine(find_devices(options.model.devices.wish))
    given = options.pool.memory
    memory = memory_budget() if given is None else given
    compute_lock = ComputeLock() if options.more else None
    models: list[PooledModel] = []
    for named in (NamedModel(options.model_name, options.model_file), *options.more):
        is_default = not models
        mine = options if is_default else options.of(named)
        find_cache = partial(prefix_bytes, budget=memory, n_models=1 + len(options.more))
        m = _pooled_model(mine, notify if is_default else log.info, compute_lock, find_cache, free)
        if any(m.name == other.name for other in models):
            raise InvalidInput(
                f"two models have the name {m.name}",
                hint="give each model a unique name: --model NAME=FILE",
            )
        if m.n_bytes > memory and given is not None:
            raise InvalidInput(
                f"{named.file}: takes about {megabytes(m.n_bytes)}, but --model-memory is {megabytes(memory)}",
                hint="increase --model-memory or choose a smaller --ctx",
            )
        m.n_bytes = min(m.n_bytes, memory)  # the estimate may be too high: let llama.cpp try
        if options.pool.idle is None:
            m.idle = None if is_default else IDLE_SECONDS
        else:
            m.idle = options.pool.idle or None
        models.append(m)
    return ModelPool(models, memory=memory, max_waiting=options.limits.max_queue)


def _pooled_model(
    options: ServerOptions,
    notify: Callable[[str], None],
    compute_lock: ComputeLock | None,
    find_cache: Callable[[int], int],
    free: Machine,
) -> PooledModel:
    """Return a model that is not loaded; `find_cache` returns the default size of its prefix cache from its bytes.

    Its size is what it takes of main memory, `free` being what is free there and on devices.
    """
    from serve.llama.facts import plan

    header = read_gguf(options.model_file)
    check_model(header)
    placement, adapters = plan(header, options.model, free), AdapterScales(options.adapters)
    need = placement.need
    info = model_info(header, options, need.n_ctx, need.layout.n_seq)
    n_bytes = placement.cpu.total
    caches = options.caches
    if caches.prefix_bytes is None:
        caches = replace(caches, prefix_bytes=find_cache(n_bytes))
        options = replace(options, caches=caches)
    n_bytes += caches.prefix_bytes or 0
    if draft := options.caches.draft_file:
        n_bytes += plan(read_gguf(draft), replace(options.model, ctx=None), free).cpu.total
    for adapter in map(read_gguf, adapters.paths):
        check_adapter(adapter, header)
        n_bytes += adapter.tensor_bytes
    options = replace(options, model_name=info.name)
    load = partial(load_model, options, notify, compute_lock, adapters)
    return PooledModel(info, n_bytes, load, adapters=adapters)


def model_info(header: GgufHeader, options: ServerOptions, n_ctx: int, n_slots: int) -> ModelInfo:
    """Return what clients can see of a model with this context in tokens and number of slots."""
    from serve.llama import facts

    tokens = header.metadata["tokenizer.ggml.tokens"]
    # A digest of the weights would take minutes.
    version = [str(header.path.resolve()), header.file_size]
    version += [file.stat().st_mtime_ns for file in header.files]
    return ModelInfo(
        options.model_name or facts.model_name(header),
        n_ctx,
        len(tokens) if isinstance(tokens, list) else 0,
        int(time.time()),
        n_bytes=header.file_size,
        n_weights=header.n_weights,
        digest=sha256(repr(version).encode()).hexdigest(),
        architecture=header.architecture,
        main_type=header.main_type(),
        n_slots=n_slots,
        n_ctx_train=facts.trained_context(header),
        n_embd=header_geometry(header).width,
        tensor_bytes=header.tensor_bytes,
        file_name=header.path.name,
        chat_template=facts.chat_template(header, options.model.chat_template),
        bos=facts.special_text(header, "bos"),
        eos=facts.special_text(header, "eos"),
        can_fill=facts.fim_layouts(header, options.model) is not None,
        certificate=options.model.certificate,
    )


def load_model(
    options: ServerOptions,
    notify: Callable[[str], None],
    compute_lock: ComputeLock | None = None,
    adapters: AdapterScales | None = None,
) -> CompletionService:
    """Load the default model of the options, and start its engine.

    Args:
        options: all but `more` is used.
        notify: called with status lines that show the settings in effect.
        compute_lock: shared with other models of the process.
        adapters: scales of the LoRA adapters, which stay the same if the model is loaded again; None means those in
            the options.

    Raises:
        TurboPilotError: the model cannot be loaded.
    """
    from serve.drafting import DraftModel, check_same_vocabulary
    from serve.llama import load

    caches, adapters = options.caches, adapters or AdapterScales(options.adapters)
    notify(f"loading {options.model_file}")
    with ExitStack() as loaded:
        decoder, report = load(options.model_file, options.model, adapters=adapters.paths)
        loaded.callback(decoder.close)
        links = dict.fromkeys(report.links)
        layout = "none: only the text before the cursor is used"
        if decoder.fim:
            layout = decoder.fim.chosen.text
        for line in (*report.lines(), f"FIM      {layout}"):
            notify(line)
        for adapter in adapters.states:
            notify(f"LoRA     {adapter.id}: {adapter.path}, scale {adapter.scale:g}")
        named = recognize(decoder.name, options.model_file.stem, options.model_name)
        next_edit = options.text.next_edit or options.model.next_edit or named
        if next_edit:
            notify(f"edits    next edits in the format {next_edit}")
        draft_model = None
        if caches.draft_file:
            small = replace(
                options.model, ctx=None, n_seq=decoder.n_seq, family="", fim_layout=None
            )
            drafter, drafts = load(caches.draft_file, small)
            loaded.callback(drafter.close)
            links |= dict.fromkeys(drafts.links)
            check_same_vocabulary(decoder, drafter)
            draft_model = DraftModel(drafter)
            notify(f"drafts   {drafts.name} ({drafts.description})")
        engine_options = EngineOptions(
            n_slots=decoder.n_seq,
            random_seed=options.random_seed,
            drafts=caches.drafts,
            looks_ahead=caches.looks_ahead,
            prefix_cache_bytes=caches.prefix_bytes or 0,
            prefix_folder=caches.prefix_folder,
            reuses=caches.reuses,
        )
        engine = Engine(decoder, engine_options, draft_model=draft_model)
        service = host(
            engine,
            name=options.model_name,
            limits=options.limits,
            text=replace(options.text, next_edit=next_edit),
            compute_lock=compute_lock,
            free=loaded.pop_all().close,
        )
        service.adapters = adapters
        service.devices, service.links = report.uses, tuple(links)
        return service


def host(
    engine: Engine,
    *,
    name: str = "",
    limits: Limits | None = None,
    text: TextOptions | None = None,
    compute_lock: ComputeLock | None = None,
    free: Callable[[], None] = lambda: None,
) -> CompletionService:
    """Start the thread of an engine; return when the engine is warmed up.

    Args:
        engine: the caller must not use it from now on.
        name: name of the model in responses; "" means the decoder's name.
        limits: limits for all completions.
        text: how prompts are built, and what ends completions.
        compute_lock: shared with other models of the process.
        free: frees engine and decoder; called once, also if this function raises.

    Raises:
        TurboPilotError: the engine cannot compute, or its thread cannot be started.
    """
    decoder, limits = engine.decoder, limits or Limits()
    info = ModelInfo(name or decoder.name, decoder.n_ctx, decoder.n_vocab, int(time.time()))
    max_open = decoder.n_seq + limits.max_queue
    runner = EngineRunner(engine, max_open=max_open, compute_lock=compute_lock, name=info.name)
    service = CompletionService(runner, decoder, info, limits, text, free)
    runner.start()
    if failure := runner.failure:
        service.close()
        raise failure
    return service
