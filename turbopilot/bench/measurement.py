"""Measure files: one process of llama.cpp for each, one after another. Prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from turbopilot.base.atomic import check_disk, replacing
from turbopilot.base.errors import InvalidInput, NotEnoughDisk
from turbopilot.base.progress import Progress, silent
from turbopilot.bench.buffers import parsed_log
from turbopilot.bench.child import Told, checked_header, context_of, n_vocab, run_task
from turbopilot.bench.resident import Resident
from turbopilot.bench.results import Divergence, Measured, Memory, Rate
from turbopilot.bench.setup import Setup, SpeedTask
from turbopilot.bench.store import Reference, bytes_needed, open_reference
from turbopilot.bench.tasks import rows_at_once
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader

WINDOW: Final = 512
"""Tokens of a window where nobody says: llama.cpp's own, so that figures can be compared."""
POSITIONS: Final = 1024
"""Measured positions where nobody says: a minute of a large model, and a standard error of a few per cent."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A file and how to run it: a line of a table."""

    path: Path
    setup: Setup


def measure(
    path: Path,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    speed: SpeedTask | None = None,
    memory: bool = True,
    touch_context: bool = False,
    progress: Progress = silent,
) -> Measured:
    """Load a file and measure it.

    Args:
        path: a GGUF file.
        setup: how to load it.
        speed: what to time; None for nothing.
        memory: whether to tell what it takes, when a whole batch has been computed.
        touch_context: fill the whole context first, which takes as long as reading so many tokens.
        progress: told of tokens.

    Raises:
        InvalidInput: no such file, or the context does not hold what is to be timed.
        CorruptModel: it is no model, or llama.cpp cannot load it.
        ServeError: it cannot be run as asked.
    """
    header = checked_header(path)
    n_ctx = context_of(header, setup.n_ctx)
    if speed and speed.n_prompt + speed.n_gen > n_ctx:
        raise InvalidInput(
            f"{path}: {speed.n_prompt} tokens of prompt and {speed.n_gen} generated do not fit into its context "
            f"of {n_ctx:,}",
            hint="measure fewer, or give a larger context where the model has one",
        )
    # Without a speed: what memory needs, a whole batch and a token after it.
    n_prompt = speed.n_prompt if speed else max(1, min(setup.n_batch, n_ctx - 1))
    job = {
        "n_prompt": n_prompt,
        "n_gen": speed.n_gen if speed else 0,
        "repeats": speed.repeats if speed else 0,
        "memory": memory,
        "touch_context": touch_context,
    }
    told = run_task(path, setup, n_ctx, "measure", job, progress)
    values = told.values
    return Measured(
        path=path,
        type_name=header.main_type(),
        n_bytes=header.file_size,
        bits_per_weight=header.bits_per_weight,
        n_ctx=values["n_ctx"],
        n_threads=values["n_threads"],
        cache_type=setup.cache_type,
        devices=tuple(values["devices"]),
        llama_cpp=values["version"],
        built_for=values["built_for"],
        prompt=Rate(n_prompt, tuple(told.prompt)) if told.prompt else None,
        generation=Rate(job["n_gen"], tuple(told.generation)) if told.generation else None,
        memory=_memory(told, touch_context) if memory else None,
    )


def planned(header: GgufHeader, setup: Setup = Setup()) -> Memory:  # noqa: B008 — frozen
    """What serving a model takes beside its weights, before any is loaded: seconds, whatever the size.

    Returns:
        `now` is the process with the vocabulary and the graph; of `buffers`, `model` is 0, and the others are what
        llama.cpp would allocate.

    Raises:
        CorruptModel: llama.cpp cannot load it.
        ServeError: it cannot be run as asked.
    """
    check_model(header)
    told = run_task(header.path, setup, context_of(header, setup.n_ctx), "planned", {}, silent)
    return _memory(told, touched=False)


def measure_in_turn(
    cells: Sequence[Cell],
    *,
    speed: SpeedTask,
    memory: bool = True,
    touch_context: bool = False,
    progress: Progress = silent,
) -> list[Measured]:
    """Measure several, one repeat of each in turn: a slow minute of the machine does not fall on one file alone.

    Each repeat loads its file again, from the page cache, in a process of its own. Memory is measured the first time.

    Raises:
        TurboPilotError: as `measure`; before anything is run where a file is absent or no model.
    """
    for cell in cells:
        checked_header(cell.path)
    once = replace(speed, repeats=1)
    steps = len(cells) * speed.repeats
    found: list[Measured] = []
    for n in range(steps):
        cell, first = cells[n % len(cells)], n < len(cells)
        now = measure(
            cell.path,
            cell.setup,
            speed=once,
            memory=memory and first,
            touch_context=touch_context and first,
            progress=_part(progress, n, steps, cell.path.name),
        )
        if first:
            found.append(now)
        else:
            before = found[n % len(cells)]
            found[n % len(cells)] = replace(
                before,
                prompt=_joined(before.prompt, now.prompt),
                generation=_joined(before.generation, now.generation),
            )
    return found


def keep_reference(
    model: Path,
    text: str,
    store: Path,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    positions: int = POSITIONS,
    window: int = WINDOW,
    progress: Progress = silent,
) -> Reference:
    """Keep a model's logits of a text, for `divergence`. An older store of that name is replaced.

    The text is cut into windows of which the second half is measured, spread evenly over it (see `windows.cut`).

    Args:
        model: the GGUF file to compare with.
        text: read by this model's tokenizer; the candidates are given the same token ids.
        store: the file to write: 4 bytes for each position and row of the vocabulary.
        setup: how to load it; its context is that of a window.
        positions: the most to measure, but always a window.
        window: tokens of a window.
        progress: told of positions.

    Raises:
        InvalidInput: no such file, or the text is too short.
        CorruptModel: it is no model, or its logits are not finite.
        NotEnoughDisk: the store does not fit.
        ServeError: it cannot be run.
    """
    header = checked_header(model)
    rows = n_vocab(header)
    n_ctx = context_of(header, window)
    try:
        check_disk(store.parent, bytes_needed(max(positions, n_ctx // 2), rows))
    except NotEnoughDisk as e:
        hint = "free some space, measure fewer positions, or keep them elsewhere (TMPDIR)"
        raise NotEnoughDisk(e.message, hint=hint) from None
    with replacing(store) as part:
        job = {
            "store": str(part),
            "text": text,
            "length": window,
            "positions": positions,
            "model": model.name,
            "model_bytes": header.file_size,
        }
        told = run_task(model, _all_logits(setup, rows), n_ctx, "reference", job, progress)
        if short := told.values.get("short"):
            raise InvalidInput(short, hint="give a longer one")
    return open_reference(store)


def divergence(
    path: Path,
    reference: Reference,
    setup: Setup = Setup(),  # noqa: B008 — frozen
    *,
    progress: Progress = silent,
) -> Divergence:
    """Compare a file with a reference.

    Args:
        path: a GGUF file.
        reference: of `keep_reference` or `open_reference`.
        setup: how to load the file.
        progress: told of positions.

    Raises:
        InvalidInput: no such file, its vocabulary or context is not the reference's, or the store is damaged.
        CorruptModel: it is no model, or its logits are not finite.
        ServeError: it cannot be run.
    """
    header = checked_header(path)
    reference = open_reference(reference.path)
    rows = n_vocab(header)
    if rows != reference.n_vocab:
        raise InvalidInput(
            f"{path}: has a vocabulary of {rows:,} tokens, and {reference.model} one of {reference.n_vocab:,}: "
            "their predictions cannot be compared",
            hint="compare files of the same model",
        )
    n_ctx = context_of(header, reference.n_window)
    if n_ctx < reference.n_window:
        raise InvalidInput(
            f"{path}: its context of {n_ctx:,} tokens does not hold the reference's windows of {reference.n_window:,}",
            hint="compare files of the same model",
        )
    job = {"store": str(reference.path)}
    told = run_task(path, _all_logits(setup, rows), n_ctx, "divergence", job, progress)
    columns = told.values["compared"]
    return Divergence.of(
        *(np.asarray(columns[k], np.float64) for k in ("kl", "same", "loss", "other_loss"))
    )


def _all_logits(setup: Setup, rows: int) -> Setup:
    """With room for the logits of a block of positions, and for one sequence."""
    return replace(setup, n_seq=1, n_outputs=rows_at_once(rows, setup.n_batch))


def _memory(told: Told, touched: bool) -> Memory:
    parts: dict[str, Any] = dict(told.values["memory"])
    devices, needed = parts.pop("devices"), parts.pop("needed", None)
    return Memory.of(
        Resident(**parts),
        told.values["base"],
        needed,
        buffers=parsed_log(told.log),
        devices=devices,
        context_filled=touched,
    )


def _joined(before: Rate | None, now: Rate | None) -> Rate | None:
    return before.joined(now) if before and now else before or now


def _part(progress: Progress, n: int, steps: int, name: str) -> Callable[..., None]:
    """The progress of one of several steps, in thousandths of a step."""

    def update(done: int, total: int, what: str = "", /) -> None:
        progress(n * 1000 + 1000 * done // max(1, total), steps * 1000, f"{name}, {what}")

    return update
