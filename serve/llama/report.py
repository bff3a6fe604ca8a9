"""What was set up when a model was loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was really set up, which may be less than what was asked for.

    Attributes:
        name: the model's, from its file.
        description: architecture, size, type.
        n_ctx: context in tokens.
        n_threads: threads that compute.
        n_parallel: sequences that run at once.
        is_split: whether each has the whole context for itself; else they share it.
        cache_type: type of keys and values.
        kv_bytes: size of the KV cache.
        prefix_bytes: room for cached prefixes.
        n_offloaded: layers that llama.cpp put on a GPU, of `n_layers` (the output counts as one).
        devices: the GPUs that llama.cpp sees.
        has_fim: whether the model can fill in the middle.
    """

    name: str
    description: str
    n_ctx: int
    n_threads: int
    n_parallel: int
    is_split: bool
    cache_type: str
    kv_bytes: int
    prefix_bytes: int
    n_offloaded: int
    n_layers: int
    devices: tuple[str, ...]
    has_fim: bool

    def _parallel(self) -> str:
        if self.n_parallel == 1:
            return "1 request at once"
        how = "each with a context of its own" if self.is_split else "sharing the context"
        return f"{self.n_parallel} requests at once, {how}"

    def lines(self) -> list[str]:
        """Describe it to a person."""
        where = ", ".join(self.devices) if self.devices else "no GPU that llama.cpp can use"
        fim = "yes" if self.has_fim else "no: the text after the cursor is ignored"
        return [
            f"model    {self.name} ({self.description})",
            f"context  {self.n_ctx} tokens, {self.n_threads} threads",
            f"parallel {self._parallel()}",
            f"KV cache {self.cache_type}, {self.kv_bytes / 1e6:,.1f} MB",
            f"GPU      {self.n_offloaded} of {self.n_layers} layers offloaded ({where})",
            f"FIM      {fim}",
        ]
