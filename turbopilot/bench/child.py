"""Our side of the measuring process: starts it, gathers what it tells, and says in words how it failed."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from turbopilot.base.atomic import FULL
from turbopilot.base.errors import (
    CorruptModel,
    DecoderFailed,
    InvalidInput,
    NotEnoughDisk,
    ServeError,
)
from turbopilot.base.progress import Progress
from turbopilot.bench.setup import Setup
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import Ended, run_child

_MODULE = "turbopilot.bench.llama_runner"
_LESS = (
    "memory may be short: give a smaller context, fewer layers on the GPU, or close other programs"
)


@dataclass(slots=True)
class Told:
    """What a child told.

    Attributes:
        values: by name, the last of each.
        prompt: tokens per second, of each repeat.
        generation: likewise.
        log: llama.cpp's lines.
    """

    values: dict[str, Any] = field(default_factory=dict)
    prompt: list[float] = field(default_factory=list)
    generation: list[float] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def checked_header(path: Path) -> GgufHeader:
    """The header of a file that llama.cpp may see.

    Raises:
        InvalidInput: there is no such file.
        CorruptModel: it is no model.
    """
    header = read_gguf(path)
    check_model(header)
    return header


def context_of(header: GgufHeader, wanted: int) -> int:
    """As many tokens as wanted, or as the model was trained on: some have no positions beyond."""
    trained = header.metadata[f"{header.architecture}.context_length"]
    return min(wanted, trained) if isinstance(trained, int) else wanted


def n_vocab(header: GgufHeader) -> int:
    """Rows of its vocabulary; `check_model` has seen that it has one."""
    tokens = header.metadata["tokenizer.ggml.tokens"]
    return len(tokens) if isinstance(tokens, list) else 0


def run_task(
    path: Path, setup: Setup, n_ctx: int, task: str, job: Mapping[str, Any], progress: Progress
) -> Told:
    """Do a task of `tasks.TASKS` to a file that has been checked.

    Raises:
        CorruptModel: llama.cpp cannot load it, or it computes no numbers.
        ServeError: it cannot be run as asked, as where memory is short.
        NotEnoughDisk: the disk filled up.
    """
    told = Told()

    def hear(one: Mapping[str, Any]) -> None:
        for name, value in one.items():
            if name == "progress":
                progress(*value)
            elif name in ("prompt", "generation"):
                getattr(told, name).append(value)
            else:
                told.values[name] = value

    def hear_line(line: str) -> None:
        if line.endswith("\n"):
            told.log.append(line)

    whole = {**job, "path": str(path), "setup": asdict(setup), "n_ctx": n_ctx, "task": task}
    ended = run_child(_MODULE, whole, hear=hear, hear_line=hear_line)
    if ended.code:
        _failed(path, n_ctx, ended, told.values)
    return told


def _failed(path: Path, n_ctx: int, ended: Ended, values: Mapping[str, Any]) -> NoReturn:
    """Raise what fits."""
    reason, why = ended.words.reason(), values.get("why", "")
    match values.get("failed"):
        case "model":
            raise CorruptModel(
                f"{path}: llama.cpp cannot load it: {reason}",
                hint="convert or download it again; if it is new, update llama-cpp-python",
            )
        case "kind":
            raise ServeError(f"{path}: is no model that completes text")
        case "context":
            raise ServeError(f"{path}: no context of {n_ctx:,} tokens: {reason}", hint=_LESS)
        case "numbers":
            raise CorruptModel(f"{path}: {why}", hint="convert or quantize it again")
        case "decode":
            raise DecoderFailed(f"{path}: {why}: {reason}", hint=_LESS)
        case "store" if values.get("errno") in FULL:
            raise NotEnoughDisk(
                f"{path}: its logits could not be kept: {why}",
                hint="free some space, measure fewer positions, or keep them elsewhere",
            )
        case "store":
            raise InvalidInput(f"{path}: its logits could not be kept or read: {why}")
    killed = ended.code == -getattr(signal, "SIGKILL", 9)
    raise ServeError(
        f"{path}: llama.cpp's process {ended.why}",
        hint=_LESS if killed or "MemoryError" in ended.last_words else "",
    )
