"""What a server is started with. Values only: knows nothing of HTTP, threads or llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from turbopilot.llama.cache_types import CACHE_TYPES as CACHE_TYPES
from turbopilot.llama.cache_types import find_cache_type as find_cache_type

DEFAULT_PORT: Final = 18080  # the original TurboPilot's, which editors are set up for

# Threads for what needs no engine: whatever is queued, /health and the token are answered at once.
SPARE_HTTP_THREADS: Final = 8
# llama.cpp's own bound. Source: LLAMA_MAX_SEQ in src/llama-cparams.h.
MAX_PARALLEL: Final = 256
# Fewer tokens hold no structure of fill-in-the-middle with anything inside.
LEAST_PROMPT: Final = 16
MAX_BODY_BYTES: Final = 8 * 2**20
# A model beside the default one is unloaded after so many seconds without a request, unless it is said: a break is
# shorter, and a lunch is not.
IDLE_SECONDS: Final = 30 * 60.0
MAX_HEADER_BYTES: Final = 64 * 2**10

# "psm": prefix, suffix, middle. "spm": the suffix goes first, so that what is typed comes at the end of the prompt and
# the rest stays computed; only for models that were trained on it (StarCoder, SantaCoder, CodeLlama, Granite).
FimOrder: TypeAlias = Literal["psm", "spm"]
FIM_ORDERS: Final[tuple[FimOrder, ...]] = ("psm", "spm")

@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How the model is loaded.

    Attributes:
        ctx: size of the context in tokens; None is the model's, at most `footprint.DEFAULT_CONTEXT`.
        threads: threads that compute; None is one per processor core.
        n_gpu_layers: layers to offload; None is all where there is a GPU.
        n_batch: prompt tokens computed at once.
        n_seq: sequences that the KV cache holds apart; None is as many as memory allows.
        cache_type: one of CACHE_TYPES, for keys and values alike.
        flash_attention: whether to use it; None is where it is faster, or memory is short.
        chat_template: Jinja, for a model whose file has none.
    """

    ctx: int | None = None
    threads: int | None = None
    n_gpu_layers: int | None = None
    n_batch: int = 512
    n_seq: int | None = None
    cache_type: str = "f16"
    flash_attention: bool | None = None
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that does not say is given. The original TurboPilot's values."""

    max_tokens: int = 200
    temperature: float = 0.2
    top_p: float = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """What no request gets more of, whatever it asks for.

    Attributes:
        max_queue: requests that may wait beyond those that run; more are refused.
        deadline: seconds after which a request ends; None is never.
        max_tokens: tokens to generate; None is what fits into the context.
        max_prompt: tokens of a prompt, which is shortened to it; None is what fits into the context.
        grace: seconds that running requests get to end when the server is stopped.
    """

    max_queue: int = 64
    deadline: float | None = 120.0
    max_tokens: int | None = None
    max_prompt: int | None = None
    grace: float = 5.0


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """What is kept of computed work, beyond the KV cache, and how it is made use of.

    Attributes:
        prefix_bytes: RAM for computed prefixes; 0 keeps none, None is a share of what the model leaves.
        prefix_folder: where they outlive the process; None is nowhere.
        drafts: guess tokens ahead and compute them together.
        looks_ahead: while nobody wants anything, go on with the last suggestion.
        draft_file: a smaller model of the same vocabulary that guesses, too.
    """

    prefix_bytes: int | None = None
    prefix_folder: Path | None = None
    drafts: bool = True
    looks_ahead: bool = True
    draft_file: Path | None = None


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that clients ask for by name.

    Attributes:
        name: as clients call it; "" is what the file calls itself.
        file: a GGUF.
        chat_template: see `ModelOptions`.
    """

    name: str
    file: Path
    chat_template: str = ""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How several models share a machine.

    Attributes:
        memory: bytes for all that are loaded; None is a share of the machine's.
        idle: seconds without a request after which one is unloaded, 0 is never; None is IDLE_SECONDS for all but the
            default model, which stays.
    """

    memory: int | None = None
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """Who may use the server. Nothing given, that is every program of this machine, and no web page.

    Attributes:
        api_keys: of which a request must bear one; without any, none is wanted.
        cors_origins: web pages that may ask, as `https://chat.example.com`; "*" is every page.
        allowed_hosts: names beside its own under which the server answers; "*" is every name.
        host: the address that it listens on, which `serve` fills in: beyond the machine more names are its own.
        copilot_request_id: answer Copilot's question for a token with the header that GitHub's servers add.
    """

    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    copilot_request_id: bool = False


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that `turbopilot serve` can be told.

    Attributes:
        model_file: the default model's, which answers whoever names none that is known.
        model_name: as clients may call it; "" is what the file calls itself.
        more: other models, loaded when they are asked for.
    """

    model_file: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    caches: CacheOptions = field(default_factory=CacheOptions)
    security: SecurityOptions = field(default_factory=SecurityOptions)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    random_seed: int | None = None
    fim_order: FimOrder = "psm"
    model_name: str = ""
    more: tuple[NamedModel, ...] = ()
    pool: PoolOptions = field(default_factory=PoolOptions)

    def of(self, model: NamedModel) -> ServerOptions:
        """These options for one of `more`. What is the default's alone, as its draft model, it has not."""
        caches = replace(self.caches, draft_file=None)
        mine = replace(self.model, chat_template=model.chat_template)
        return replace(
            self, model_file=model.file, model_name=model.name, model=mine, caches=caches, more=()
        )
