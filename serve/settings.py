"""What a server is started with. Values only: knows nothing of HTTP, threads or llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from turbopilot.errors import InvalidInput, did_you_mean

DEFAULT_PORT: Final = 18080  # the original TurboPilot's, which editors are set up for
DEFAULT_CONTEXT: Final = (
    8192  # what `ctx = None` takes at most: a longer KV cache costs memory unasked
)

# More than editors open at once (6 have been seen from one), and more threads than jobs that may wait:
# whatever is queued, /health and the token are answered at once.
HTTP_THREADS: Final = 32
MAX_JOBS: Final = 24
MAX_BODY_BYTES: Final = 8 * 2**20

# What llama.cpp can keep keys and values in, widest first. Source: kv_cache_types in common/arg.cpp.
CACHE_TYPES: Final = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def find_cache_type(name: str) -> str:
    """One of CACHE_TYPES by its name, in any case.

    Raises:
        InvalidInput: there is no such type; the hint offers near names.
    """
    if (found := name.lower()) in CACHE_TYPES:
        return found
    raise InvalidInput(f"--cache-type {name}: no such type", hint=did_you_mean(name, CACHE_TYPES))


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How the model is loaded.

    Attributes:
        ctx: size of the context in tokens; None is the model's, at most DEFAULT_CONTEXT.
        threads: threads that compute; None is one per processor core.
        n_gpu_layers: layers to offload; None is all where there is a GPU.
        n_batch: prompt tokens computed at once.
        n_seq: sequences that the KV cache holds apart.
        cache_type: one of CACHE_TYPES, for keys and values alike.
    """

    ctx: int | None = None
    threads: int | None = None
    n_gpu_layers: int | None = None
    n_batch: int = 512
    n_seq: int | None = None
    cache_type: str = "f16"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request that does not say is given. The original TurboPilot's values."""

    max_tokens: int = 200
    temperature: float = 0.2
    top_p: float = 0.1


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that `turbopilot serve` can be told."""

    model_file: Path
    model: ModelOptions = field(default_factory=ModelOptions)
    defaults: Defaults = field(default_factory=Defaults)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    random_seed: int | None = None
