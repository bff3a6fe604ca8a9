"""Conversion of torch's and transformers' errors to this project's, and a switch for their log output."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from turbopilot.base.errors import (
    CorruptCheckpoint,
    InvalidInput,
    TurboPilotError,
    UnsupportedModel,
)


@contextmanager
def plain_memory() -> Iterator[None]:
    """Convert out-of-memory errors to InvalidInput."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not isinstance(e, MemoryError) and "memory" not in str(e):
            raise
        raise InvalidInput(
            f"PyTorch ran out of memory: {str(e).splitlines()[0]}",
            hint="use fewer --positions, or another --device",
        ) from e


@contextmanager
def plain_errors(folder: Path) -> Iterator[None]:
    """Convert any error that safetensors, torch, json or transformers raise while loading a checkpoint."""
    try:
        yield
    except TurboPilotError:
        raise
    except Exception as e:
        raise _load_error(folder, e) from e


def _load_error(folder: Path, e: Exception) -> TurboPilotError:
    words = (str(e).strip().splitlines() or [type(e).__name__])[0]
    if "trust_remote_code" in str(e):
        return UnsupportedModel(
            f"{folder}: needs its own code to run, and verify never runs a checkpoint's code",
            hint="verify supports only architectures that are built into transformers",
        )
    if isinstance(e, KeyError) or (
        isinstance(e, ValueError) and ("model type" in str(e) or "Unrecognized" in str(e))
    ):
        return UnsupportedModel(
            f"{folder}: {words}", hint="transformers does not support this language model"
        )
    return CorruptCheckpoint(
        f"{folder}: PyTorch cannot load it: {type(e).__name__}: {words}",
        hint="a file is missing or damaged: download the checkpoint again",
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' log lines and progress bars."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
