"""Setup of a loaded model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Setup of a loaded model, which may be less than was asked for.

    `is_split` gives each of the `n_parallel` sequences a context of its own; `n_offloaded` layers are on a GPU, of
    `n_layers` (the output counts as one); `prefix_bytes` are for cached prefixes.
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

    def lines(self) -> list[str]:
        """Return the setup as lines of the log."""
        parallel = f"{self.n_parallel} request{'s' if self.n_parallel > 1 else ''} at once"
        if self.n_parallel > 1:
            how = "each with a context of its own" if self.is_split else "sharing the context"
            parallel += f", {how}"
        where = ", ".join(self.devices) if self.devices else "no GPU that llama.cpp can use"
        fim = "yes" if self.has_fim else "no: the text after the cursor is ignored"
        return [
            f"model    {self.name} ({self.description})",
            f"context  {self.n_ctx} tokens, {self.n_threads} threads",
            f"parallel {parallel}",
            f"KV cache {self.cache_type}, {self.kv_bytes / 1e6:,.1f} MB",
            f"GPU      {self.n_offloaded} of {self.n_layers} layers offloaded ({where})",
            f"FIM      {fim}",
        ]
