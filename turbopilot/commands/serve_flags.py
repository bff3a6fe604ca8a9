"""The options of `turbopilot serve`, as types: what each is called, and what --help says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serve.settings import CACHE_TYPES, FIM_ORDERS, LEAST_PROMPT

# The original TurboPilot's names.
MODEL_TYPES = ("codegen", "starcoder", "wizardcoder", "stablecode")

Model = Annotated[
    str | None,
    typer.Argument(
        help="A GGUF file, an old ggml .bin, a checkpoint's folder, a known model's name (turbopilot models), "
        "owner/name[:TYPE] on the Hub, or nothing for the bundled model.",
        show_default=False,
    ),
]

ModelFile = Annotated[
    str | None,
    typer.Option(
        "-f",
        "--model-file",
        envvar=["TURBOPILOT_MODEL", "TURBOPILOT_MODEL_FILE", "MODEL"],
        help="The same as MODEL, as the original had it.",
        show_default=False,
    ),
]

ModelType = Annotated[
    str | None,
    typer.Option(
        "-m",
        "--model-type",
        envvar=["TURBOPILOT_MODEL_TYPE", "MODEL_TYPE"],
        help=f"Of an old .bin, as the original had it ({', '.join(MODEL_TYPES)}); a GGUF says itself what it is.",
        show_default=False,
    ),
]

Port = Annotated[
    int, typer.Option("-p", "--port", min=0, max=65535, help="Port; 0 is any free one.")
]

Host = Annotated[
    str,
    typer.Option(
        help="Address to listen on. 0.0.0.0 is every network you are in: ask for a key then (--api-key-file)."
    ),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "-t",
        "--threads",
        envvar=["TURBOPILOT_THREADS", "THREADS"],
        min=1,
        help="Threads that compute. Default: one per processor core.",
        show_default=False,
    ),
]

NGpuLayers = Annotated[
    str,
    typer.Option(
        "--ngl",
        "--n-gpu-layers",
        envvar=["TURBOPILOT_N_GPU_LAYERS", "GPU_LAYERS"],
        help="Layers to compute on the GPU: a number, or auto: all where there is a GPU.",
    ),
]

FimOrder = Annotated[
    str,
    typer.Option(
        help=f"How the text around the cursor is put to the model ({', '.join(FIM_ORDERS)}): psm suits all; spm, for "
        "those trained on it (StarCoder, SantaCoder, CodeLlama, Granite), rereads less while you type.",
    ),
]

RandomSeed = Annotated[
    int | None,
    typer.Option(
        "-r",
        "--random-seed",
        help="Makes a run repeatable. Default: every run differs.",
        show_default=False,
    ),
]

Temperature = Annotated[
    float,
    typer.Option(min=0.0, help="For requests that do not say: 0 always takes the likeliest token."),
]

TopP = Annotated[
    float,
    typer.Option(
        "--top-p",
        min=0.0,
        max=1.0,
        help="For requests that do not say: how much of the probability to choose from.",
    ),
]

BatchSize = Annotated[
    int,
    typer.Option(
        "-b",
        "--batch-size",
        envvar=["TURBOPILOT_BATCH_SIZE", "BATCHSIZE"],
        min=1,
        help="Prompt tokens computed at once: less memory, or faster prompts.",
    ),
]

Ctx = Annotated[
    int | None,
    typer.Option(
        "-c",
        "--ctx",
        help="Context in tokens, prompt and answer together. Default: the model's, at most 8192.",
        show_default=False,
    ),
]

CacheType = Annotated[
    str,
    typer.Option(
        "--cache-type",
        help=f"What the context's keys and values are kept in ({', '.join(CACHE_TYPES)}): q8_0 takes half of "
        "f16's memory at next to no loss.",
    ),
]

FlashAttn = Annotated[
    str,
    typer.Option(
        "--flash-attn",
        help="llama.cpp's flash attention: on, off, or auto: on a GPU, and without one where memory is short; "
        "there it takes less of it, and makes long texts slower to write.",
    ),
]

Parallel = Annotated[
    str,
    typer.Option(
        "--parallel",
        help="Requests computed at once: a number, or auto: 4. Each has a context of its own where memory is "
        "plentiful, which is faster; else they share one.",
    ),
]

MaxQueue = Annotated[
    int,
    typer.Option(
        min=0,
        help="Requests that may wait beyond those; more are told to come back (503, Retry-After).",
    ),
]

Deadline = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Seconds after which a request ends with what there is; 0 is never.",
    ),
]

MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens of an answer, whatever is asked for. Default: what fits.",
        show_default=False,
    ),
]

MaxPrompt = Annotated[
    int | None,
    typer.Option(
        min=LEAST_PROMPT,
        help="Most tokens of a prompt; longer ones lose what is farthest from the cursor. Default: what fits.",
        show_default=False,
    ),
]

Grace = Annotated[
    float,
    typer.Option(
        min=0.0, help="Seconds that running requests get to end when the server is stopped."
    ),
]

PrefixCache = Annotated[
    str,
    typer.Option(
        "--prefix-cache",
        help="RAM for prompts that were read before, as 512MiB, so that going back to a file costs nothing; "
        "0 is none, auto a share of what the model leaves, at most 256MiB.",
    ),
]

PrefixCacheDir = Annotated[
    Path | None,
    typer.Option(
        "--prefix-cache-dir",
        help="Keep them there across restarts. Whoever reads the folder reads your code.",
        show_default=False,
    ),
]

NoAhead = Annotated[
    bool,
    typer.Option(
        "--no-ahead/--ahead",
        help="Compute only what is asked for: not, while nobody asks, what follows the last suggestion.",
    ),
]

Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        help="A smaller model of the same vocabulary that guesses tokens ahead: same answers, faster where it is "
        "much smaller. As MODEL.",
        show_default=False,
    ),
]

NoDrafts = Annotated[
    bool,
    typer.Option(
        "--no-drafts/--drafts",
        help="Do not guess ahead what the text repeats: same answers, slower.",
    ),
]

Debug = Annotated[
    bool, typer.Option("--debug/--no-debug", help="Show what llama.cpp says. Never shows prompts.")
]
