"""Settings of a server: every option of `turbopilot serve` is declared here, once, as a field (see `serve.options`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from serve.options import Option
from turbopilot.base.option_values import one_of, parse_size_or_zero
from turbopilot.base.sizes import parse_size
from turbopilot.formats import ggml_types
from turbopilot.llama.footprint import DEFAULT_CONTEXT, DEFAULT_PARALLEL

DEFAULT_PORT: Final = 18080  # the original TurboPilot's, which editors are set up for

# Threads for what needs no engine: whatever is queued, /health and the token are answered at once.
SPARE_HTTP_THREADS: Final = 8
# llama.cpp's own bound. Source: LLAMA_MAX_SEQ in src/llama-cparams.h.
MAX_PARALLEL: Final = 256
# Fewer tokens cannot hold a fill-in-the-middle prompt with any text in it.
LEAST_PROMPT: Final = 16
MAX_BODY_BYTES: Final = 8 * 2**20
MAX_HEADER_BYTES: Final = 64 * 2**10
# Default time without a request after which a model other than the default one is unloaded.
IDLE_SECONDS: Final = 30 * 60.0

# "psm": prefix, suffix, middle. "spm": the suffix goes first, so that what is typed comes at the end of the prompt and
# the rest stays computed; only for models that were trained on it (StarCoder, SantaCoder, CodeLlama, Granite).
FimOrder: TypeAlias = Literal["psm", "spm"]
CACHE_TYPES: Final = tuple(name.lower() for name in ggml_types.CACHE_TYPES)
# The original TurboPilot's names.
MODEL_TYPES: Final = ("codegen", "starcoder", "wizardcoder", "stablecode")


def find_cache_type(name: str) -> str:
    """Return one of CACHE_TYPES by its name, in any letter case; raise InvalidInput if there is none."""
    return one_of("--cache-type", name, CACHE_TYPES)


# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which models to serve, as the user names them."""

    model: Annotated[str | None, Option(
        "model", "GGUF file, old ggml .bin, checkpoint folder, name of a known model (turbopilot models), or "
        "owner/name[:TYPE] on the Hub. Default: the bundled model.", is_model=True,
    )] = None
    model_file: Annotated[str | None, Option(
        "-f, --model-file", "Same as MODEL; the original TurboPilot's flag.",
        env=("TURBOPILOT_MODEL", "MODEL"), is_model=True,
    )] = None
    model_type: Annotated[str | None, Option(
        "-m, --model-type", f"Kind of an old ggml .bin ({', '.join(MODEL_TYPES)}); not needed for a GGUF.",
        env=("MODEL_TYPE",), choices=MODEL_TYPES,
    )] = None
    named: Annotated[tuple[str, ...], Option(
        "--model", "One more model, for requests that name it; FILE can be anything that MODEL can. Can be repeated. "
        "The first request for it loads it. Without MODEL, the first of these is the default model. In the "
        "environment variable, separate entries by spaces.", name="models", metavar="NAME=FILE",
    )] = ()
    draft: Annotated[str | None, Option(
        "--draft", "Smaller model with the same vocabulary that drafts tokens: same completions, faster if it is much "
        "smaller. Can be anything that MODEL can.", is_model=True,
    )] = None


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How several models share a machine.

    Attributes:
        memory: bytes; None is MODEL_MEMORY_SHARE of the machine's.
        idle: seconds, 0 is never; None is IDLE_SECONDS, and never for the default model.
    """

    memory: Annotated[int | None, Option(
        "--model-memory", "Memory for all loaded models together, such as 12GB: the least recently used models are "
        "unloaded to make room. auto is three quarters of this machine's memory.",
        auto=True, metavar="SIZE", convert=parse_size,
    )] = None
    idle: Annotated[float | None, Option(
        "--idle-unload", "Unload a model after this time without a request; the next request loads it again. 0 is "
        "never. Default: 30, and never for the default model.",
        least=0, metavar="MINUTES", convert=lambda _, minutes: 60 * minutes,
    )] = None


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is loaded.

    Attributes:
        n_seq: sequences that the KV cache holds apart; None is up to DEFAULT_PARALLEL, as memory allows.
        flash_attention: None is only if it is faster, or memory is short.
        chat_template: Jinja, for a model whose file has none.
    """

    ctx: Annotated[int | None, Option(
        "-c, --ctx", "Context in tokens, prompt and completion together. Default: the model's, at most "
        f"{DEFAULT_CONTEXT}.",
    )] = None
    threads: Annotated[int | None, Option(
        "-t, --threads", "Threads that compute. Default: one per processor core.", env=("THREADS",), least=1,
    )] = None
    n_gpu_layers: Annotated[int | None, Option(
        "--ngl, --n-gpu-layers", "Layers to compute on the GPU: a number, or auto for all of them if there is a GPU.",
        env=("GPU_LAYERS",), auto=True, least=0,
    )] = None
    n_batch: Annotated[int, Option(
        "-b, --batch-size", "Prompt tokens computed at once: fewer take less memory, more are faster.",
        env=("BATCHSIZE",), least=1,
    )] = 512
    n_seq: Annotated[int | None, Option(
        "--parallel", f"Requests computed at once: a number, or auto for {DEFAULT_PARALLEL}. Each has a context of its "
        "own if there is enough memory, which is faster; otherwise they share one.",
        auto=True, least=1, most=MAX_PARALLEL,
    )] = None
    cache_type: Annotated[str, Option(
        "--cache-type", f"Type of the KV cache ({', '.join(CACHE_TYPES)}): q8_0 takes half of f16's memory at almost "
        "no loss.", choices=CACHE_TYPES,
    )] = "f16"
    flash_attention: Annotated[bool | None, Option(
        "--flash-attn", "llama.cpp's flash attention: on, off or auto. auto uses it on a GPU, and on a CPU if memory "
        "is short: there it saves memory, but generates slower after long prompts.",
        auto=True, choices=("auto", "on", "off"), convert=lambda _, text: text == "on",
    )] = None
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults of fields that a request leaves out; the original TurboPilot's values."""

    max_tokens: int = 200
    temperature: Annotated[float, Option(
        "--temperature", "Temperature for requests that give none: 0 always takes the likeliest token.", least=0,
    )] = 0.2
    top_p: Annotated[float, Option(
        "--top-p", "top_p for requests that give none: the share of the probability to choose from.", least=0, most=1,
    )] = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Server-wide limits for every request; None is no limit but the context."""

    max_queue: Annotated[int, Option(
        "--max-queue", "Requests that may wait for a slot; more are refused with 503 and Retry-After.", least=0,
    )] = 64
    deadline: Annotated[float | None, Option(
        "--deadline", "Seconds after which a request ends with the tokens that it has; 0 is never.",
        least=0, convert=lambda _, seconds: seconds or None,
    )] = 120.0
    max_tokens: Annotated[int | None, Option(
        "--max-tokens", "Most tokens of a completion, whatever a request asks for. Default: what fits.", least=1,
    )] = None
    max_prompt: Annotated[int | None, Option(
        "--max-prompt", "Most tokens of a prompt; of a longer one, what is farthest from the cursor is dropped. "
        "Default: what fits.", least=LEAST_PROMPT,
    )] = None
    grace: Annotated[float, Option(
        "--grace", "Seconds that running requests get to end when the server stops.", least=0,
    )] = 5.0


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Caches beyond the KV cache, and computing tokens ahead.

    Attributes:
        prefix_bytes: 0 is none; None is a share of what the model leaves.
        draft_file: GGUF of the draft model.
    """

    prefix_bytes: Annotated[int | None, Option(
        "--prefix-cache", "RAM for the KV state of earlier prompts, such as 512MiB, so that returning to a file costs "
        "nothing; 0 is none, auto a share of what the model leaves, at most 256MiB.",
        auto=True, metavar="SIZE", convert=parse_size_or_zero,
    )] = None
    prefix_folder: Annotated[Path | None, Option(
        "--prefix-cache-dir", "Keep the prefix cache in this folder across restarts. Anybody who can read the folder "
        "can read your code.",
    )] = None
    looks_ahead: Annotated[bool, Option(
        "--no-ahead/--ahead", "Do not precompute the next completion while idle.",
    )] = True
    drafts: Annotated[bool, Option(
        "--no-drafts/--drafts", "Do not draft tokens that the text repeats: same completions, slower.",
    )] = True
    draft_file: Path | None = None


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """Who may use the server. By default, every program of this machine and no web page.

    Attributes:
        host: the address that it listens on, filled in by the server: beyond the machine it has more names.
    """

    api_keys: Annotated[tuple[str, ...], Option(
        "--api-key", "API key that requests must send (Authorization: Bearer KEY). Can be repeated. Other users "
        "of this machine can see it in the list of processes: --api-key-file or the variable TURBOPILOT_API_KEY is "
        "safer.",
        metavar="KEY", is_secret=True,
    )] = field(default=(), repr=False)
    cors_origins: Annotated[tuple[str, ...], Option(
        "--cors-origin", "Web page that may use the server from a browser, such as https://chat.example.com. Can be "
        "repeated. By default only the server's own pages may. * is every page, and needs an API key.",
        metavar="ORIGIN",
    )] = ()
    allowed_hosts: Annotated[tuple[str, ...], Option(
        "--allowed-host", "One more name that the server answers to, for example behind a proxy. Can be repeated. "
        "Other names are refused, to protect against DNS rebinding. * is any name.", metavar="NAME",
    )] = ()
    host: str = "127.0.0.1"
    copilot_request_id: Annotated[bool, Option(
        "--copilot-request-id/--no-copilot-request-id", "Add an x-github-request-id header to the answer to Copilot's "
        "token request, as GitHub's servers do: the newest Copilot language server wants it to accept the token.",
    )] = False
    api_key_file: Annotated[Path | None, Option(
        "--api-key-file", "File of API keys, one a line; lines that begin with # are comments.", metavar="FILE",
    )] = None


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Contents and format of the log on stderr."""

    form: Annotated[Literal["text", "json"], Option(
        "--log-format", "Format of the log on stderr (text, json): json is one object a line.",
    )] = "text"
    prompts: Annotated[bool, Option(
        "--log-prompts/--no-log-prompts", "Log prompts and completions in full: anybody who can read the log can read "
        "your code. Keys are never logged.",
    )] = False
    debug: Annotated[bool, Option(
        "--debug/--no-debug", "Log what developers need, and what llama.cpp logs. Never logs prompts.",
    )] = False


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model file, the name that clients give for it ("" is the one in the file), and `chat_template` for it."""

    name: str
    file: Path
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that a server is started with.

    Attributes:
        model_file: the default model's, which answers requests that name no known model.
        model_name: as clients may call it; "" is the name in the file.
        more: other models, loaded by the first request for them.
    """

    model_file: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    caches: CacheOptions = field(default_factory=CacheOptions)
    security: SecurityOptions = field(default_factory=SecurityOptions)
    host: Annotated[str, Option(
        "--host", "Address to listen on. 0.0.0.0 is every network of this machine: ask for a key then "
        "(--api-key-file).",
    )] = "127.0.0.1"
    port: Annotated[int, Option("-p, --port", "Port; 0 is any free one.", least=0, most=65535)] = DEFAULT_PORT
    random_seed: Annotated[int | None, Option(
        "-r, --random-seed", "Seed that makes a run repeatable. Default: every run differs.",
    )] = None
    fim_order: Annotated[FimOrder, Option(
        "--fim-order", "Order of the code around the cursor in the prompt (psm, spm): psm works with every model; spm, "
        "for models trained on it (StarCoder, SantaCoder, CodeLlama, Granite), reads less again while you type.",
    )] = "psm"
    model_name: str = ""
    more: tuple[NamedModel, ...] = ()
    pool: PoolOptions = field(default_factory=PoolOptions)

    @property
    def request_defaults(self) -> Defaults:
        """The defaults, within the limits."""
        limit = self.limits.max_tokens or self.defaults.max_tokens
        return replace(self.defaults, max_tokens=min(self.defaults.max_tokens, limit))

    def of(self, model: NamedModel) -> ServerOptions:
        """Return these options for one of `more`, without what belongs to the default model alone: its draft model."""
        caches = replace(self.caches, draft_file=None)
        mine = replace(self.model, chat_template=model.chat_template)
        return replace(self, model_file=model.file, model_name=model.name, model=mine, caches=caches, more=())

# fmt: on
