"""How a model is loaded to be measured, and what is to be timed. Values: knows no llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.formats.ggml_types import CACHE_TYPES


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is loaded: as `serve` does it, where nothing else is said.

    Attributes:
        n_ctx: tokens of the context; a model trained on fewer gets those.
        n_batch: prompt tokens computed at once.
        n_threads: threads that compute; None is one for each processor core.
        n_gpu_layers: layers on the GPU; None is all where there is one.
        cache_type: of keys and values; one of `CACHE_TYPES`.
        n_seq: sequences that share the context.
        n_outputs: positions of a batch whose logits are kept: llama.cpp reserves memory for them. 0 is all of them.
        flash_attention: whether to use it, which takes less memory; None is where it is faster, or memory is short.
    """

    n_ctx: int = 2048
    n_batch: int = 512
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    cache_type: str = "F16"
    n_seq: int = 1
    n_outputs: int = 20
    flash_attention: bool | None = None

    def __post_init__(self) -> None:
        """Raises InvalidInput: a number is out of range, or there is no such cache type."""
        for name, least in (("n_ctx", 1), ("n_batch", 1), ("n_seq", 1), ("n_outputs", 0)):
            if getattr(self, name) < least:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}", hint=f"give at least {least}"
                )
        if self.n_threads is not None and self.n_threads < 1:
            raise InvalidInput(f"n_threads is {self.n_threads}", hint="give at least 1")
        if self.cache_type not in CACHE_TYPES:
            raise InvalidInput(
                f"{self.cache_type}: not a type for the KV cache",
                hint=did_you_mean(self.cache_type, CACHE_TYPES),
            )


@dataclass(frozen=True, slots=True)
class SpeedTask:
    """What is timed, as llama-bench does it (`-p N -n M -d N`).

    Attributes:
        n_prompt: tokens of the prompt, read n_batch at once.
        n_gen: tokens generated one after another behind that prompt; 0 for none.
        repeats: how often each.
    """

    n_prompt: int = 512
    n_gen: int = 64
    repeats: int = 3

    def __post_init__(self) -> None:
        """Raises InvalidInput: a number is out of range."""
        for name, least in (("n_prompt", 1), ("n_gen", 0), ("repeats", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}", hint=f"give at least {least}"
                )
