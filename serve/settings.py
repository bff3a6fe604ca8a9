"""Settings of the server. Each option of `turbopilot serve` is a field of a class here (see `serve.options`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final

from serve.adapters import AdapterOptions
from serve.device_options import DeviceOptions, MainMemoryOptions
from serve.model_choice import NamedModel
from serve.options import Option
from serve.pool_options import PoolOptions
from serve.prompt.layouts import NAMES
from serve.prompt.next_edit import FORMAT_NAMES
from serve.shown_options import ShownOption
from serve.upstream_options import UpstreamOptions
from turbopilot.base.option_values import one_of, parse_size_or_zero
from turbopilot.formats import ggml_types
from turbopilot.llama.footprint import DEFAULT_CONTEXT, DEFAULT_PARALLEL

DEFAULT_PORT: Final = 18080  # the original TurboPilot's: editors are configured for it

# Threads for routes that need no engine, such as /health, so that they are answered even if the queue is full.
SPARE_HTTP_THREADS: Final = 8
UPSTREAM_PARALLEL: Final = 256  # requests at all upstreams together; each has a thread here
MAX_PARALLEL: Final = 256  # llama.cpp's limit. Source: LLAMA_MAX_SEQ in src/llama-cparams.h.
LEAST_PROMPT: Final = 16  # fewer tokens would leave a fill-in-the-middle prompt no room for text
MAX_BODY_BYTES: Final = 8 * 2**20
MAX_HEADER_BYTES: Final = 64 * 2**10
# Default time without a request after which a model other than the default one is unloaded.
IDLE_SECONDS: Final = 30 * 60.0
CACHE_TYPES: Final = tuple(name.lower() for name in ggml_types.CACHE_TYPES)


def find_cache_type(name: str) -> str:
    """Return the cache type with this name, in any letter case; raise InvalidInput if there is none."""
    return one_of("--cache-type", name, CACHE_TYPES)


# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Options for loading a model.

    Attributes:
        n_seq: number of sequences in the KV cache; None means up to DEFAULT_PARALLEL, as memory allows.
        flash_attention: None uses it only if it is faster or memory is short.
        chat_template: Jinja template for a model file that has none.
        family: model family by its usual name; "" if unknown.
        known_fim: layout of fill-in-the-middle prompts in the catalogue; "" if unknown.
        next_edit: name of the model's next-edit format; "" if it has none or it is unknown.
        certificate: line about the file's valid certificate, or "".
    """

    ctx: Annotated[int | None, Option(
        "-c, --ctx", "Context size in tokens, for prompt and completion together. Default: the model's context size, "
        f"at most {DEFAULT_CONTEXT}, and less if memory is short.",
    )] = None
    threads: Annotated[int | None, Option(
        "-t, --threads", "CPU threads for inference. Default: one per processor core.", env=("THREADS",), least=1,
    )] = None
    n_batch: Annotated[int, Option(
        "-b, --batch-size", "Prompt tokens per batch, of all requests together. A larger batch is faster for several "
        "requests at once.",
        env=("BATCHSIZE",), least=1,
    )] = 2048
    n_seq: Annotated[int | None, Option(
        "--parallel", f"Requests computed in parallel: a number, or auto for {DEFAULT_PARALLEL}. If there is enough "
        "memory, each has its own context, which is faster; otherwise they share one.",
        auto=True, least=1, most=MAX_PARALLEL,
    )] = None
    cache_type: Annotated[str, Option(
        "--cache-type", f"Data type of the KV cache ({', '.join(CACHE_TYPES)}). q8_0 takes half the memory of f16, "
        "with almost no loss of quality.", choices=CACHE_TYPES,
    )] = "f16"
    flash_attention: Annotated[bool | None, Option(
        "--flash-attn", "llama.cpp's flash attention: on, off or auto. auto uses what is faster on this machine (see "
        "--no-tune), and flash attention if memory is short.",
        auto=True, choices=("auto", "on", "off"), convert=lambda _, text: text == "on",
    )] = None
    tunes: Annotated[bool, Option(
        "--no-tune/--tune", "Do not measure which kind of attention is faster on this machine. Without a GPU, that "
        "happens once for each model, for some seconds, while the server is idle.",
    )] = True
    fim_layout: Annotated[str | None, Option(
        "--fim-layout, --fim-order", "Layout of the default model's fill-in-the-middle prompts: auto for its own, or "
        f"{', '.join(NAMES)}.", name="fim_layout", env=("TURBOPILOT_FIM_ORDER",), auto=True, choices=("auto", *NAMES),
    )] = None
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    main_memory: MainMemoryOptions = field(default_factory=MainMemoryOptions)
    chat_template: str = ""
    family: str = ""
    known_fim: str = ""
    next_edit: str = ""
    certificate: str = ""

    def of(self, model: NamedModel) -> ModelOptions:
        """Return these options with what is known about a model."""
        return replace(
            self, chat_template=model.chat_template, family=model.family, known_fim=model.fim,
            next_edit=model.next_edit, certificate=model.certificate,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Defaults:
    """Defaults for fields that a request omits, the same as in the original TurboPilot."""

    max_tokens: int = 200
    temperature: Annotated[float, Option(
        "--temperature", "Default temperature of requests. 0 always takes the most likely token.", least=0,
    )] = 0.2
    top_p: Annotated[float, Option(
        "--top-p", "Default top_p of requests: the total probability of the tokens to sample from.", least=0, most=1,
    )] = 0.1


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How completions begin and end."""

    next_edit: Annotated[str, Option(
        "--next-edit-format", f"Prompt format of /backend/next_edit_autocomplete: {', '.join(FORMAT_NAMES)}, or auto "
        "for the format of a known next-edit model.", auto=True, choices=("auto", *FORMAT_NAMES),
    )] = ""
    heals: Annotated[bool, Option(
        "--no-heal/--heal", "Begin completions exactly at the cursor. By default, the model may re-spell the last "
        "token before the cursor, so that a completion does not begin inside a word.",
    )] = True
    ends_loops: Annotated[bool, Option(
        "--no-end-loops/--end-loops", "Do not end a completion that repeats a line twice or a phrase three times.",
    )] = True


@dataclass(frozen=True, slots=True)
class Limits:
    """Server-wide limits for every request; None means that only the context size limits it."""

    max_queue: Annotated[int, Option(
        "--max-queue", "Maximum length of the queue. Further requests get status 503 and Retry-After.", least=0,
    )] = 64
    deadline: Annotated[float | None, Option(
        "--deadline", "Time limit of a request in seconds; the text generated so far is returned. 0 means no limit.",
        least=0, convert=lambda _, seconds: seconds or None,
    )] = 120.0
    max_tokens: Annotated[int | None, Option(
        "--max-tokens", "Upper limit for max_tokens in requests. Default: limited only by the context.", least=1,
    )] = None
    max_prompt: Annotated[int | None, Option(
        "--max-prompt", "Maximum tokens per prompt. A longer prompt loses the text farthest from the cursor. "
        "Default: limited only by the context.", least=LEAST_PROMPT,
    )] = None
    grace: Annotated[float, Option(
        "--grace", "Seconds that running requests have to finish when the server stops.", least=0,
    )] = 5.0


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Prefix cache, draft tokens, and precomputation while idle.

    Attributes:
        prefix_bytes: 0 turns the cache off; None means a share of the memory that the model leaves free.
        draft_file: model file of the draft model.
    """

    prefix_bytes: Annotated[int | None, Option(
        "--prefix-cache", "RAM for the KV state of earlier prompts, such as 512MiB, so that returning to a file needs "
        "no prefill. 0 turns it off; auto is a quarter of the memory that is free once the model is loaded.",
        auto=True, metavar="SIZE", convert=parse_size_or_zero,
    )] = None
    prefix_folder: Annotated[Path | None, Option(
        "--prefix-cache-dir", "Keep the prefix cache in this folder across restarts. Anyone who can read the folder "
        "can read your code.",
    )] = None
    looks_ahead: Annotated[bool, Option(
        "--no-ahead/--ahead", "Do not precompute the next completion while idle.",
    )] = True
    drafts: Annotated[bool, Option(
        "--no-drafts/--drafts", "Do not draft tokens from repeated text. Completions stay the same but take longer.",
    )] = True
    reuses: Annotated[bool, Option(
        "--no-reuse/--reuse", "Reuse cached text only if the prompt begins with it. By default also if an editor's "
        "window moves through a file, a line was deleted, or other files come in another order. That is many times "
        "faster, but completions may differ from those of a freshly read prompt.",
    )] = True
    draft_file: Path | None = None


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """Access control. By default, every program on this machine may use the server, and no web page.

    Attributes:
        host: the address that the server listens on; filled in by the server. It decides which Host headers are valid.
    """

    api_keys: Annotated[tuple[str, ...], Option(
        "--api-key", "API key that requests must send (Authorization: Bearer KEY). Can be repeated. Other users "
        "of this machine can see it in the list of processes: use --api-key-file or the environment variable "
        "TURBOPILOT_API_KEY instead.",
        metavar="KEY", is_secret=True,
    )] = field(default=(), repr=False)
    cors_origins: Annotated[tuple[str, ...], Option(
        "--cors-origin", "Web page that may use the server from a browser, such as https://chat.example.com. Can be "
        "repeated. By default, only the server's own pages and editors may. * allows every page and needs an API key.",
        metavar="ORIGIN",
    )] = ()
    allowed_hosts: Annotated[tuple[str, ...], Option(
        "--allowed-host", "Additional host name of the server, for example behind a proxy. Can be repeated. Requests "
        "for other names are refused, to protect against DNS rebinding. * allows every name.", metavar="NAME",
    )] = ()
    host: str = "127.0.0.1"
    has_page: Annotated[bool, Option(
        "--no-page/--page", "Do not serve the page with a playground, the server's status and editors' settings.",
    )] = True
    copilot_request_id: Annotated[bool, Option(
        "--copilot-request-id/--no-copilot-request-id", "Add an x-github-request-id header to responses "
        "under /copilot_internal/. Only for a Copilot language server that signs in at this server: the settings of "
        "`turbopilot editors copilot` do not need it.",
    )] = False
    api_key_file: Annotated[Path | None, Option(
        "--api-key-file", "File with API keys, one per line. Lines that begin with # are comments.", metavar="FILE",
    )] = None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """All settings of a server.

    Attributes:
        model_file: file of the default model, which also answers requests with an unknown model name.
        model_name: the default model's name for clients; "" means the name in the file.
        more: the other models, each loaded by the first request for it.
        adapters: LoRA adapters of the default model.
        upstream: engines that compute it elsewhere.
        shown: all of them, for `/status/settings`.
    """

    model_file: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    caches: CacheOptions = field(default_factory=CacheOptions)
    security: SecurityOptions = field(default_factory=SecurityOptions)
    host: Annotated[str, Option(
        "--host", "Address to listen on. With 0.0.0.0, the server listens on all network interfaces: require an API "
        "key then (--api-key-file).",
    )] = "127.0.0.1"
    port: Annotated[int, Option("-p, --port", "Port. 0 picks a free port.", least=0, most=65535)] = DEFAULT_PORT
    random_seed: Annotated[int | None, Option(
        "-r, --random-seed", "Random seed that makes a run repeatable. Default: a different one each time.",
    )] = None
    text: TextOptions = field(default_factory=TextOptions)
    model_name: str = ""
    more: tuple[NamedModel, ...] = ()
    pool: PoolOptions = field(default_factory=PoolOptions)
    adapters: AdapterOptions = field(default_factory=AdapterOptions)
    upstream: UpstreamOptions = field(default_factory=UpstreamOptions)
    shown: tuple[ShownOption, ...] = ()

    @property
    def request_defaults(self) -> Defaults:
        """The defaults, with `max_tokens` cut to the server's limit."""
        limit = self.limits.max_tokens or self.defaults.max_tokens
        return replace(self.defaults, max_tokens=min(self.defaults.max_tokens, limit))

    def of(self, model: NamedModel) -> ServerOptions:
        """Return these options for one of the models in `more`, without what is for the default model alone."""
        return replace(
            self, model_file=model.file, model_name=model.name, more=(),
            model=replace(self.model.of(model), fim_layout=None),
            caches=replace(self.caches, draft_file=None), adapters=replace(self.adapters, files=()),
        )  # fmt: skip

# fmt: on
