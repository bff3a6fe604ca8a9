"""Measurements of files, each in a child process, one after another.

Every function raises InvalidInput for a file or an option that cannot be used, CorruptModel for a file that llama.cpp
cannot load or whose logits are not finite, and ServeError if the measurement fails, for example for lack of memory.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from turbopilot.base.atomic import check_disk, replacing
from turbopilot.base.errors import InvalidInput, NotEnoughDisk, ServeError
from turbopilot.base.progress import Progress, silent
from turbopilot.bench.results import Divergence, Measured, Memory, Rate
from turbopilot.bench.setup import Setup, SpeedTask
from turbopilot.bench.windows import Reference, Windows, rows_at_once
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import ChildFailed, run_child
from turbopilot.llama.log import Buffers

WINDOW: Final = 512
"""Tokens of a window, as in llama.cpp's tools, so that results can be compared."""
POSITIONS: Final = 1024
"""Measured positions by default: about a minute for a large model, with a standard error of a few percent."""
_LESS: Final = (
    "memory may be short: give a smaller context, fewer layers on the GPU, or close other programs"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A file and its setup: one row of the result table."""

    path: Path
    setup: Setup


def measure(
    path: Path,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    speed: SpeedTask | None = None,
    memory: bool = True,
    progress: Progress = silent,
) -> Measured:
    """Load a GGUF file, time `speed` unless it is None, and measure its memory after a full batch.

    `progress` receives the tokens done and all tokens.
    """
    header, n_ctx = _opened(path, setup.n_ctx)
    if speed and speed.n_prompt + speed.n_gen > n_ctx:
        raise InvalidInput(
            f"{path}: {speed.n_prompt} prompt tokens and {speed.n_gen} generated tokens do not fit into its context "
            f"of {n_ctx:,}",
            hint="measure fewer tokens, or give a larger context if the model supports it",
        )
    # To measure memory alone, run a full batch and one more token.
    n_prompt = speed.n_prompt if speed else max(1, min(setup.n_batch, n_ctx - 1))
    n_gen, repeats = (speed.n_gen, speed.repeats) if speed else (0, 0)
    job = {"n_prompt": n_prompt, "n_gen": n_gen, "repeats": repeats, "memory": memory}
    received, buffers = _run(Cell(path, setup), n_ctx, "measure", job, progress)
    loaded, rates = received["loaded"], received["rates"]
    return Measured(
        path=path, type_name=header.main_type(), n_bytes=header.file_size,
        bits_per_weight=header.bits_per_weight, cache_type=setup.cache_type,
        prompt=Rate.of(n_prompt, rates["prompt"]), generation=Rate.of(n_gen, rates["generation"]),
        memory=_memory(received, buffers) if memory else None,
        **{**loaded, "devices": tuple(loaded["devices"])},
    )  # fmt: skip


def planned(header: GgufHeader, setup: Setup = Setup()) -> Memory:  # noqa: B008 — frozen
    """Return the memory that serving a model needs in addition to its weights.

    No weights are loaded, so this takes only seconds. `now` is the memory of the process with the vocabulary and the
    graph. `buffers` are the allocations that llama.cpp would make; their `model` is 0.
    """
    check_model(header)
    n_ctx = context_of(header, setup.n_ctx)
    return _memory(*_run(Cell(header.path, setup), n_ctx, "planned", {}, silent))


def _memory(received: dict[str, Any], buffers: Buffers) -> Memory:
    placed = {
        device: sum(places.get(buffer, 0) for places in buffers.kinds.values())
        for device, buffer in received["places"].items()
    }
    return Memory(base=received["base"], buffers=buffers, placed=placed, **received["memory"])


def measure_in_turn(
    cells: Sequence[Cell], *, speed: SpeedTask, memory: bool = True, progress: Progress = silent
) -> list[Measured]:
    """Measure several files, one repeat of each in turn, so that a slow minute does not affect a single file.

    All files are checked first. Each repeat loads its file again, from the page cache, in a new process. Memory is
    measured in the first repeat.
    """
    for cell in cells:
        _opened(cell.path, 1)
    once, steps = replace(speed, repeats=1), len(cells) * speed.repeats
    found: list[Measured] = []
    for n, cell in enumerate([*cells] * speed.repeats):
        before = found[n - len(cells)] if n >= len(cells) else None

        def advance(
            done: int, total: int, what: str = "", /, n: int = n, cell: Cell = cell
        ) -> None:
            """Report progress in thousandths of a step."""
            done = n * 1000 + 1000 * done // max(1, total)
            progress(done, steps * 1000, f"{cell.path.name}, {what}")

        weigh = memory and before is None
        now = measure(cell.path, cell.setup, speed=once, memory=weigh, progress=advance)
        found.append(before.joined(now) if before else now)
    return found[-len(cells) :]


def keep_reference(
    model: Path,
    text: str,
    store: Path,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    positions: int = POSITIONS,
    progress: Progress = silent,
) -> Reference:
    """Save a model's logits on a text for `divergence`; the file has 4 bytes for each position and vocabulary row.

    The text is tokenized by this model and cut into evenly spread windows, at least one (see `windows.cut`).
    """
    header, n_ctx = _opened(model, WINDOW)
    n_vocab = _n_vocab(header)
    try:
        check_disk(store.parent, 4 * max(positions, n_ctx // 2) * n_vocab)
    except NotEnoughDisk as e:
        hint = "free disk space, measure fewer positions, or save the logits elsewhere (TMPDIR)"
        raise NotEnoughDisk(e.message, hint=hint) from None
    with replacing(store) as part:
        job = {"store": str(part), "text": text, "length": WINDOW, "positions": positions}
        cell = Cell(model, _all_logits(setup, header))
        received, _ = _run(cell, n_ctx, "reference", job, progress)
    return Reference(store, model.name, n_vocab, Windows(received["windows"]))


def divergence(
    path: Path,
    reference: Reference,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    progress: Progress = silent,
) -> Divergence:
    """Compare a GGUF file with a reference from `keep_reference`. `progress` receives positions."""
    header, n_ctx = _opened(path, reference.windows.length)
    if (rows := _n_vocab(header)) != reference.n_vocab:
        raise InvalidInput(
            f"{path}: its vocabulary has {rows:,} tokens, that of {reference.model} has {reference.n_vocab:,}: "
            "their predictions cannot be compared",
            hint="compare files of the same model",
        )
    if n_ctx < (length := reference.windows.length):
        raise InvalidInput(
            f"{path}: its context of {n_ctx:,} tokens is shorter than the reference's windows of {length:,}",
            hint="compare files of the same model",
        )
    job = {"store": str(reference.path), "windows": reference.windows.ids}
    cell = Cell(path, _all_logits(setup, header))
    received, _ = _run(cell, n_ctx, "divergence", job, progress)
    columns = received["compared"]
    return Divergence.of(
        *(np.asarray(columns[k], np.float64) for k in ("kl", "same", "loss", "other_loss"))
    )


def _opened(path: Path, n_ctx: int) -> tuple[GgufHeader, int]:
    """Return the checked header of a model, and `n_ctx` limited to the context that it was trained with."""
    header = read_gguf(path)
    check_model(header)
    return header, context_of(header, n_ctx)


def context_of(header: GgufHeader, n_ctx: int) -> int:
    """Return `n_ctx`, limited to the context that the model was trained with."""
    trained = header.metadata[f"{header.architecture}.context_length"]
    return min(n_ctx, trained) if isinstance(trained, int) else n_ctx


def _n_vocab(header: GgufHeader) -> int:
    """Return the vocabulary size of a model that `check_model` has accepted."""
    tokens = header.metadata["tokenizer.ggml.tokens"]
    return len(tokens) if isinstance(tokens, list) else 0


def _all_logits(setup: Setup, header: GgufHeader) -> Setup:
    """Return the setup with memory reserved for the logits of a block of positions."""
    return replace(setup, n_outputs=rows_at_once(_n_vocab(header), setup.n_batch))


def _run(
    cell: Cell, n_ctx: int, task: str, job: Mapping[str, Any], progress: Progress
) -> tuple[dict[str, Any], Buffers]:
    """Run one of `llama_bench.TASKS` on a checked file; return its messages, merged, and llama.cpp's buffers."""
    received: dict[str, Any] = {}

    def receive(message: Mapping[str, Any]) -> None:
        if "progress" in message:
            progress(*message["progress"])
        else:
            received.update(message)

    setup = {"path": str(cell.path), "setup": asdict(cell.setup), "n_ctx": n_ctx, "task": task}
    try:
        log = run_child("turbopilot.bench.llama_bench", {**job, **setup}, on_message=receive)
    except ChildFailed as e:
        killed = e.code == -getattr(signal, "SIGKILL", 9)
        raise ServeError(
            f"{cell.path}: llama.cpp's process {e.message}",
            hint=_LESS if killed or "MemoryError" in e.last_words else "",
        ) from None
    return received, log.buffers()
