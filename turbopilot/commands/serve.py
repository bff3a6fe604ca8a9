"""`turbopilot serve`."""

from __future__ import annotations

import logging

import typer

from serve.settings import (
    DEFAULT_PORT,
    Defaults,
    Limits,
    ModelOptions,
    ServerOptions,
    find_cache_type,
)
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.commands import serve_flags as flags
from turbopilot.commands import serve_model_flags as model_flags
from turbopilot.commands import serve_security as safety
from turbopilot.render import console

DEFAULTS = Defaults()
LIMITS = Limits()
MODEL = ModelOptions()


def serve(
    context: typer.Context,
    model: flags.Model = None,
    model_file: flags.ModelFile = None,
    model_type: flags.ModelType = None,
    models: model_flags.Models = None,
    model_memory: model_flags.ModelMemory = "auto",
    idle_unload: model_flags.IdleUnload = None,
    port: flags.Port = DEFAULT_PORT,
    host: flags.Host = "127.0.0.1",
    threads: flags.Threads = None,
    n_gpu_layers: flags.NGpuLayers = "auto",
    fim_order: flags.FimOrder = "psm",
    random_seed: flags.RandomSeed = None,
    temperature: flags.Temperature = DEFAULTS.temperature,
    top_p: flags.TopP = DEFAULTS.top_p,
    batch_size: flags.BatchSize = MODEL.n_batch,
    ctx: flags.Ctx = None,
    cache_type: flags.CacheType = MODEL.cache_type,
    flash_attn: flags.FlashAttn = "auto",
    parallel: flags.Parallel = "auto",
    max_queue: flags.MaxQueue = LIMITS.max_queue,
    deadline: flags.Deadline = LIMITS.deadline or 0.0,
    max_tokens: flags.MaxTokens = None,
    max_prompt: flags.MaxPrompt = None,
    grace: flags.Grace = LIMITS.grace,
    prefix_cache: flags.PrefixCache = "auto",
    prefix_cache_dir: flags.PrefixCacheDir = None,
    no_ahead: flags.NoAhead = False,
    draft: flags.Draft = None,
    no_drafts: flags.NoDrafts = False,
    api_key: safety.ApiKey = None,
    api_key_file: safety.ApiKeyFile = None,
    cors_origin: safety.CorsOrigin = None,
    allowed_host: safety.AllowedHost = None,
    copilot_request_id: safety.CopilotRequestId = False,
    log_format: safety.LogFormatOption = "text",
    log_prompts: safety.LogPrompts = False,
    debug: flags.Debug = False,
    config: model_flags.Config = None,
) -> None:
    """Serve completions to editors over HTTP.

    Speaks as the original TurboPilot, FauxPilot and OpenAI do.

    Stays on this machine unless --host says otherwise; then ask for a key (--api-key-file, or the environment variable
    TURBOPILOT_API_KEY). Each option has such a variable, and the original's THREADS, MODEL, MODEL_TYPE, GPU_LAYERS and
    BATCHSIZE are understood.

    Example: turbopilot serve codegen-q4_0.gguf --port 18080

    Example: turbopilot serve santacoder

    Example: turbopilot serve -m starcoder -f ./models/santacoder-q4_0.bin

    Example: turbopilot serve --model fast=qwen-0.5b.gguf --model good=qwen-7b.gguf --config turbopilot.toml
    """
    from serve.http.log_format import find_log_format
    from serve.http.log_format import set_up as log_set_up
    from serve.http.server import serve as serve_http
    from turbopilot.app.certificates import at_start
    from turbopilot.app.gpu_layers import gpu_layers
    from turbopilot.commands.serve_models import pool_options, resolve_models, wanted_models
    from turbopilot.commands.serve_options import (
        cache_options,
        choose_fim_order,
        on_or_off,
        parallel_requests,
    )

    wanted = wanted_models(context, model, model_file, models or ())
    pool = pool_options(model_memory, idle_unload)
    if model_type and model_type not in flags.MODEL_TYPES:
        raise InvalidInput(
            f"-m {model_type}: no such model type",
            hint=f"{did_you_mean(model_type, flags.MODEL_TYPES)} Or leave it out: a GGUF says it itself.",
        )
    layers, cache_type = gpu_layers(n_gpu_layers), find_cache_type(cache_type)
    n_seq = parallel_requests(parallel)
    caches = cache_options(
        prefix_cache, prefix_cache_dir, draft, no_drafts=no_drafts, no_ahead=no_ahead
    )
    form = find_log_format(log_format)
    # A collector of JSON wants nothing else on stderr.
    notify = console.info if form == "text" else logging.getLogger("turbopilot.serve").info
    log_set_up(form, debug=debug, prompts=log_prompts)
    security = safety.security_options(
        keys=api_key or (),
        key_file=api_key_file,
        cors_origins=cors_origin or (),
        allowed_hosts=allowed_host or (),
        copilot_request_id=copilot_request_id,
        warn=notify,
    )
    # The writer of GGUF tells of every file that it writes; an old file's import says it in its own words.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    default, *more = resolve_models(wanted, model_type)
    options = ServerOptions(
        model_file=default.file,
        model=ModelOptions(
            ctx=ctx,
            threads=threads,
            n_gpu_layers=layers,
            n_batch=batch_size,
            n_seq=n_seq,
            cache_type=cache_type,
            flash_attention=on_or_off("--flash-attn", flash_attn),
            chat_template=default.chat_template,
        ),
        defaults=Defaults(
            max_tokens=min(DEFAULTS.max_tokens, max_tokens or DEFAULTS.max_tokens),
            temperature=temperature,
            top_p=top_p,
        ),
        limits=Limits(
            max_queue=max_queue,
            deadline=deadline or None,
            max_tokens=max_tokens,
            max_prompt=max_prompt,
            grace=grace,
        ),
        caches=caches,
        security=security,
        host=host,
        port=port,
        random_seed=random_seed,
        fim_order=choose_fim_order(fim_order),
        model_name=default.name,
        more=tuple(more),
        pool=pool,
    )
    for served in (default, *more):
        if line := at_start(served.file, console.REPORTER):
            notify(f"{served.name or served.file.name}: {line}" if more else line)
    serve_http(options, notify)
