"""Settings of a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.formats.ggml_types import CACHE_TYPES
from turbopilot.llama.placement_wish import PlacementWish


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings for loading a model; the defaults are those of `serve`.

    Attributes:
        n_ctx: tokens of context, limited to the context that the model was trained with.
        n_threads: None is one thread per processor core.
        n_gpu_layers: layers on devices; None means as many as fit.
        workers: HOST:PORT of workers whose devices are used too.
        n_outputs: positions of a batch for whose logits llama.cpp reserves memory; 0 is all.
        flash_attention: None uses it if it is faster or memory is short.
    """

    n_ctx: int = 2048
    n_batch: int = 512
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    cache_type: str = "F16"
    n_outputs: int = 20
    flash_attention: bool | None = None
    workers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", tuple(self.workers))  # a list if it comes from JSON
        _check_least(self, n_ctx=1, n_batch=1, n_outputs=0, n_threads=1)
        if self.cache_type not in CACHE_TYPES:
            raise InvalidInput(
                f"{self.cache_type}: not a KV cache type",
                hint=did_you_mean(self.cache_type, CACHE_TYPES),
            )

    @property
    def wish(self) -> PlacementWish:
        """The wanted placement of the model."""
        return PlacementWish(self.n_gpu_layers, workers=self.workers)


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
