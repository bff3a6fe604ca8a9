"""Settings of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.formats.ggml_types import CACHE_TYPES
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.placement_wish import PlacementWish


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings for loading a model; the defaults are those of `serve`.

    Attributes:
        n_ctx: tokens of context, limited to the context that the model was trained with.
        n_threads: None is one thread per processor core.
        n_seq: number of sequences, which share the context.
        placement: devices for the parts of the model.
        n_outputs: positions of a batch for whose logits llama.cpp reserves memory; 0 is all.
        flash_attention: None uses it if it is faster or memory is short.
    """

    n_ctx: int = 2048
    n_batch: int = 512
    n_threads: int | None = None
    cache_type: str = "F16"
    n_outputs: int = 20
    flash_attention: bool | None = None
    n_seq: int = 1
    placement: PlacementWish = PlacementWish()  # noqa: RUF009 — frozen

    def __post_init__(self) -> None:
        _check_least(self, n_ctx=1, n_batch=1, n_outputs=0, n_threads=1, n_seq=1)
        if self.cache_type not in CACHE_TYPES:
            raise InvalidInput(
                f"{self.cache_type}: not a KV cache type",
                hint=did_you_mean(self.cache_type, CACHE_TYPES),
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Setup:
        """Return the setup of a child's job."""
        return cls(**{**values, "placement": PlacementWish.from_json(values["placement"])})

    def need(self, n_ctx: int) -> ContextNeed:
        """Return what a context of `n_ctx` tokens needs."""
        n_batch, layout = min(self.n_batch, n_ctx), KvLayout(self.n_seq)
        n_outputs = self.n_outputs or self.n_batch
        return ContextNeed(
            n_ctx,
            layout,
            self.cache_type,
            n_batch,
            n_outputs,
            has_scores=self.flash_attention is False,
        )


@dataclass(frozen=True, slots=True)
class SpeedTask:
    """Tokens to time, as with llama-bench `-p N -n M -d N`.

    `n_prompt` tokens are prefilled in batches of `n_batch`, then `n_gen` tokens (0 for none) are decoded one by one.
    """

    n_prompt: int = 512
    n_gen: int = 64
    repeats: int = 3

    def __post_init__(self) -> None:
        _check_least(self, n_prompt=1, n_gen=0, repeats=1)


def _check_least(values: object, **least: int) -> None:
    for name, lowest in least.items():
        value = getattr(values, name)
        if value is not None and value < lowest:
            raise InvalidInput(f"{name} is {value}", hint=f"give at least {lowest}")
