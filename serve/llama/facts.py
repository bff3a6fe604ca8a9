"""How a GGUF is served: its context, its name, a line about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve.settings import DEFAULT_CONTEXT, DEFAULT_PARALLEL, ModelOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.base.machine import total_bytes
from turbopilot.catalog import recognize
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.footprint import kv_bytes_per_token as kv_bytes_per_token

LEAST_CONTEXT: Final = 64
# Of this machine's memory, what sequences may take to be apart.
SPLIT_SHARE: Final = 20
# Of what the model leaves of this machine's memory, what computed prefixes may take unasked.
PREFIX_SHARE: Final = 16
LEAST_PREFIX_BYTES: Final = 32 * 2**20  # fewer hold too little, where memory is short
MOST_PREFIX_BYTES: Final = 256 * 2**20
# Token embeddings by learned position: there is no vector for a position beyond the last.
_LEARNED_POSITIONS: Final = "position_embd.weight"


def choose_context(header: GgufHeader, wanted: int | None) -> int:
    """The context to use, in tokens.

    Raises:
        InvalidInput: the model cannot have the context that is wanted.
    """
    value = header.metadata[f"{header.architecture}.context_length"]
    trained = value if isinstance(value, int) else DEFAULT_CONTEXT
    if wanted is None:
        return min(trained, DEFAULT_CONTEXT)
    if wanted < LEAST_CONTEXT:
        raise InvalidInput(
            f"--ctx {wanted}: too small to complete anything", hint=f"give at least {LEAST_CONTEXT}"
        )
    learned = any(t.name == _LEARNED_POSITIONS for t in header.tensors)
    if learned and wanted > trained:
        raise InvalidInput(
            f"--ctx {wanted}: {header.path.name} has learned only {trained} positions",
            hint=f"give at most {trained}",
        )
    return wanted


@dataclass(frozen=True, slots=True)
class Layout:
    """How sequences lie in the KV cache.

    Attributes:
        n_seq: how many.
        is_split: each has `n_ctx` cells of its own, and computes over these alone, at `n_seq` times the memory. Else
            they share one pool, and every token is compared with everybody's: 128 tokens of a prompt beside 7 other
            sequences of 350 took SmolLM2-135M 1.0 to 1.1 s so, and 0.6 to 0.7 s apart (2 cores, no GPU).
    """

    n_seq: int
    is_split: bool

    def n_cells(self, n_ctx: int) -> int:
        """What llama.cpp is to be asked for; it rounds each sequence's up to a multiple of 256."""
        return self.n_seq * -(-n_ctx // 256) * 256 if self.is_split else n_ctx


def choose_layout(header: GgufHeader, n_ctx: int, wanted: int | None, cache_type: str) -> Layout:
    """So many sequences as are wanted, apart where that costs a small share of this machine's memory."""
    n_seq = wanted or DEFAULT_PARALLEL
    each = kv_bytes_per_token(header, cache_type)
    extra = (n_seq - 1) * n_ctx * each
    return Layout(n_seq, n_seq > 1 and 0 < extra <= total_bytes() // SPLIT_SHARE)


def choose_prefix_cache(header: GgufHeader, kv_bytes: int) -> int:
    """Bytes for prefixes outside of the KV cache, where none are said: a share of what the model leaves."""
    share = (total_bytes() - header.tensor_bytes - kv_bytes) // PREFIX_SHARE
    return min(MOST_PREFIX_BYTES, share) if share >= LEAST_PREFIX_BYTES else 0


def memory_bytes(header: GgufHeader, options: ModelOptions, prefix_bytes: int | None) -> int:
    """About what a loaded model takes: weights, keys and values, prefixes. Computing takes little beside them.

    Args:
        header: the model's.
        options: how it is loaded.
        prefix_bytes: for computed prefixes; None is what `choose_prefix_cache` gives them.

    Raises:
        InvalidInput: see `choose_context`.
    """
    n_ctx = choose_context(header, options.ctx)
    layout = choose_layout(header, n_ctx, options.n_seq, options.cache_type)
    kv_bytes = layout.n_cells(n_ctx) * kv_bytes_per_token(header, options.cache_type)
    kept = choose_prefix_cache(header, kv_bytes) if prefix_bytes is None else prefix_bytes
    return header.tensor_bytes + kv_bytes + kept


def model_name(header: GgufHeader) -> str:
    """The name that the file gives itself, or else the file's."""
    name = header.metadata.get("general.name")
    usable = isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100
    return str(name) if usable else header.path.stem


def describe(header: GgufHeader) -> str:
    """Architecture, size and type, for a person."""
    millions = header.n_weights / 1e6
    return (
        f"{header.architecture}, {millions:,.1f} million weights, {header.main_type()}, "
        f"{header.bits_per_weight:.1f} bits per weight"
    )


def chat_template(header: GgufHeader) -> str:
    """How messages become a prompt: what the file says, else what is known of the model; "" where nothing is."""
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        return template
    url = header.metadata.get("general.source.repo_url")
    model = recognize(model_name(header), url if isinstance(url, str) else "")
    return model.chat_template if model else ""
