"""`turbopilot serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from serve.settings import (
    CACHE_TYPES,
    DEFAULT_PORT,
    LEAST_PROMPT,
    Defaults,
    Limits,
    ModelOptions,
    ServerOptions,
    find_cache_type,
)
from turbopilot import console
from turbopilot.errors import InvalidInput, did_you_mean

DEFAULTS = Defaults()
LIMITS = Limits()
# The original TurboPilot's names.
MODEL_TYPES = ("codegen", "starcoder", "wizardcoder", "stablecode")


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A GGUF file, an old ggml .bin, a checkpoint's folder, a known model's name (turbopilot models), "
            "owner/name[:TYPE] on the Hub, or nothing for the bundled model.",
            show_default=False,
        ),
    ] = None,
    model_file: Annotated[
        str | None,
        typer.Option(
            "-f",
            "--model-file",
            envvar="MODEL",
            help="The same as MODEL, as the original had it.",
            show_default=False,
        ),
    ] = None,
    model_type: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model-type",
            envvar="MODEL_TYPE",
            help=f"Of an old .bin, as the original had it ({', '.join(MODEL_TYPES)}); a GGUF says itself what it is.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("-p", "--port", min=0, max=65535, help="Port; 0 is any free one.")
    ] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. 0.0.0.0 is every network you are in: there is no password."
        ),
    ] = "127.0.0.1",
    threads: Annotated[
        int | None,
        typer.Option(
            "-t",
            "--threads",
            envvar="THREADS",
            min=1,
            help="Threads that compute. Default: one per processor core.",
            show_default=False,
        ),
    ] = None,
    n_gpu_layers: Annotated[
        str,
        typer.Option(
            "--ngl",
            "--n-gpu-layers",
            envvar="GPU_LAYERS",
            help="Layers to compute on the GPU: a number, or auto: all where there is a GPU.",
        ),
    ] = "auto",
    random_seed: Annotated[
        int | None,
        typer.Option(
            "-r",
            "--random-seed",
            help="Makes a run repeatable. Default: every run differs.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0, help="For requests that do not say: 0 always takes the likeliest token."
        ),
    ] = DEFAULTS.temperature,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p",
            min=0.0,
            max=1.0,
            help="For requests that do not say: how much of the probability to choose from.",
        ),
    ] = DEFAULTS.top_p,
    batch_size: Annotated[
        int,
        typer.Option(
            "-b",
            "--batch-size",
            min=1,
            help="Prompt tokens computed at once: less memory, or faster prompts.",
        ),
    ] = ModelOptions().n_batch,
    ctx: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--ctx",
            help="Context in tokens, prompt and answer together. Default: the model's, at most 8192.",
            show_default=False,
        ),
    ] = None,
    cache_type: Annotated[
        str,
        typer.Option(
            "--cache-type",
            help=f"What the context's keys and values are kept in ({', '.join(CACHE_TYPES)}): q8_0 takes half of "
            "f16's memory at next to no loss.",
        ),
    ] = ModelOptions().cache_type,
    parallel: Annotated[
        str,
        typer.Option(
            "--parallel",
            help="Requests computed at once: a number, or auto: 4. Each has a context of its own where memory is "
            "plentiful, which is faster; else they share one.",
        ),
    ] = "auto",
    max_queue: Annotated[
        int,
        typer.Option(
            min=0,
            help="Requests that may wait beyond those; more are told to come back (503, Retry-After).",
        ),
    ] = LIMITS.max_queue,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds after which a request ends with what there is; 0 is never.",
        ),
    ] = LIMITS.deadline or 0.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens of an answer, whatever is asked for. Default: what fits.",
            show_default=False,
        ),
    ] = None,
    max_prompt: Annotated[
        int | None,
        typer.Option(
            min=LEAST_PROMPT,
            help="Most tokens of a prompt; longer ones lose what is farthest from the cursor. Default: what fits.",
            show_default=False,
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            min=0.0, help="Seconds that running requests get to end when the server is stopped."
        ),
    ] = LIMITS.grace,
    prefix_cache: Annotated[
        str,
        typer.Option(
            "--prefix-cache",
            help="RAM for prompts that were read before, as 512MiB, so that going back to a file costs nothing; "
            "0 is none, auto a share of what the model leaves, at most 256MiB.",
        ),
    ] = "auto",
    prefix_cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--prefix-cache-dir",
            help="Keep them there across restarts. Whoever reads the folder reads your code.",
            show_default=False,
        ),
    ] = None,
    no_ahead: Annotated[
        bool,
        typer.Option(
            "--no-ahead",
            help="Compute only what is asked for: not, while nobody asks, what follows the last suggestion.",
        ),
    ] = False,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            help="A smaller model of the same vocabulary that guesses tokens ahead: same answers, faster where it is "
            "much smaller. As MODEL.",
            show_default=False,
        ),
    ] = None,
    no_drafts: Annotated[
        bool,
        typer.Option(
            "--no-drafts", help="Do not guess ahead what the text repeats: same answers, slower."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show what llama.cpp says. Never shows prompts.")
    ] = False,
) -> None:
    """Serve completions to editors over HTTP.

    Speaks as the original TurboPilot, FauxPilot and OpenAI do.

    Stays on this machine unless --host says otherwise. Old THREADS, MODEL, MODEL_TYPE and
    GPU_LAYERS environment variables are understood.

    Example: turbopilot serve codegen-q4_0.gguf --port 18080

    Example: turbopilot serve santacoder

    Example: turbopilot serve -m starcoder -f ./models/santacoder-q4_0.bin
    """
    from serve.http.server import serve as serve_http
    from turbopilot.commands.certified import at_start
    from turbopilot.commands.gpu_layers import gpu_layers
    from turbopilot.commands.resolve import resolve_gguf
    from turbopilot.commands.serve_options import cache_options, parallel_requests

    if model and model_file and Path(model) != Path(model_file):
        raise InvalidInput(f"two models: {model} and -f {model_file}", hint="give one of them")
    if model_type and model_type not in MODEL_TYPES:
        raise InvalidInput(
            f"-m {model_type}: no such model type",
            hint=f"{did_you_mean(model_type, MODEL_TYPES)} Or leave it out: a GGUF says it itself.",
        )
    layers, cache_type = gpu_layers(n_gpu_layers), find_cache_type(cache_type)
    n_seq = parallel_requests(parallel)
    caches = cache_options(
        prefix_cache, prefix_cache_dir, draft, no_drafts=no_drafts, no_ahead=no_ahead
    )
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
    )
    # The writer of GGUF tells of every file that it writes; an old file's import says it in its own words.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    path = resolve_gguf(model or model_file, model_type=model_type or "")
    options = ServerOptions(
        model_file=path,
        model=ModelOptions(
            ctx=ctx,
            threads=threads,
            n_gpu_layers=layers,
            n_batch=batch_size,
            n_seq=n_seq,
            cache_type=cache_type,
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
        host=host,
        port=port,
        random_seed=random_seed,
    )
    if line := at_start(path):
        console.info(line)
    serve_http(options, console.info)
