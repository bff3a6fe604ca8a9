"""What is measured of a loaded model, in its process. Knows no llama.cpp: it is handed a `Model`, and tells.

P positions, V vocabulary rows, W windows of n tokens.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from turbopilot.base.errors import InvalidInput
from turbopilot.base.kl_divergence import Logits, kl_divergence
from turbopilot.bench.store import Reference, open_logits, write_head
from turbopilot.bench.windows import Windows, cut, row_blocks
from turbopilot.llama.child import tell

_BLOCK_LOGITS: Final = 1 << 24  # 64 MiB of float32 a block: bounds memory whatever the vocabulary
_NONE: Final = range(0)


class DecodeFailed(Exception):
    """llama.cpp could not compute; its log says why."""


class NotFinite(DecodeFailed):
    """The logits are not numbers."""

    def __init__(self) -> None:
        super().__init__("its logits are not finite")


class Model(Protocol):
    """A loaded model with a context.

    Attributes:
        begin: the token that texts begin with, where the model wants one.
        version: of llama-cpp-python.
    """

    n_vocab: int
    n_ctx: int
    n_batch: int
    begin: int | None
    version: str

    def tokenize(self, text: str) -> list[int]:
        """Token ids; nothing in the text stands for a special token."""

    def read(self, ids: Sequence[int], start: int, outputs: range) -> Logits:
        """Read at most n_batch tokens from position `start` on, and wait until it is done.

        Returns:
            A view of the logits of those positions that are in `outputs`, (P, V), until the next call.

        Raises:
            DecodeFailed: llama.cpp could not.
        """

    def forget(self) -> None:
        """Begin anew at position 0."""

    def memory(self) -> dict[str, Any]:
        """The fields of `Resident`, and "devices": name → bytes taken since before the model was loaded."""

    def drop_mapped(self) -> bool:
        """Let go of the mapped file's pages; False where the system cannot."""


def measure(model: Model, job: Mapping[str, Any]) -> None:
    """Time and weigh; tells {"prompt": tokens/s} and {"generation": tokens/s} of each repeat, {"memory"} at the end.

    Args:
        model: with room for the prompt and what is generated.
        job: "n_prompt", "n_gen", "repeats" (0 where no speed is wanted), "memory", "touch_context".
    """
    n_prompt, n_gen, repeats = job["n_prompt"], job["n_gen"], job["repeats"]
    # As llama-bench: any tokens will do, since what they are changes nothing of how they are computed.
    draw = random.Random(0)
    ids = [draw.randrange(model.n_vocab) for _ in range(max(n_prompt + n_gen, model.n_ctx))]
    steps, done = (n_prompt + n_gen) * (repeats + 1), 0

    def heard(n: int, what: str) -> None:
        nonlocal done
        done += n
        tell({"progress": [min(done, steps), steps, what]})

    # The first time the weights come from the disk, memory is touched and threads start: that is not counted.
    _read(model, ids[:n_prompt], 0, last=True)
    model.read(ids[:1], min(n_prompt, model.n_ctx - 1), range(model.n_ctx))
    heard(n_prompt + n_gen, "warming up")
    for _ in range(repeats):
        model.forget()
        began = time.perf_counter()
        _read(model, ids[:n_prompt], 0, last=True)
        tell({"prompt": n_prompt / (time.perf_counter() - began)})
        heard(n_prompt, "reading")
        if n_gen:
            began = time.perf_counter()
            for at in range(n_prompt, n_prompt + n_gen):
                model.read(ids[at : at + 1], at, range(at, at + 1))
            tell({"generation": n_gen / (time.perf_counter() - began)})
            heard(n_gen, "generating")
    if job["touch_context"]:
        model.forget()
        tell({"progress": [steps, steps, "filling the context"]})
        _read(model, ids[: model.n_ctx], 0, last=True)
    if job["memory"]:
        memory = model.memory()
        if model.drop_mapped():
            # What was laid out anew at loading leaves pages behind that nobody reads again.
            model.forget()
            _read(model, ids[:n_prompt], 0, last=True)
            model.read(ids[:1], min(n_prompt, model.n_ctx - 1), range(model.n_ctx))
            memory["needed"] = model.memory()["now"]
        tell({"memory": memory})


def planned(model: Model, job: Mapping[str, Any]) -> None:
    """What there is before any weight is loaded; tells {"memory"}."""
    tell({"memory": model.memory()})


def keep_reference(model: Model, job: Mapping[str, Any]) -> None:
    """Write a store; tells {"kept": True} where it is whole, or {"short": why} where the text is.

    Args:
        model: whose context holds a window.
        job: "store", "text", "length", "positions", and the fields of `Reference` that only the parent knows.
    """
    ids, length = model.tokenize(job["text"]), min(job["length"], model.n_ctx)
    try:
        windows = cut(ids, length, job["positions"], model.begin)
    except InvalidInput as e:
        tell({"short": e.message})
        return
    reference = Reference(
        Path(job["store"]), job["model"], job["model_bytes"], model.n_vocab, len(windows.ids),
        len(windows.ids[0]), windows.measured.start, model.version, model.n_batch, job["setup"]["cache_type"],
        hashlib.sha256(job["text"].encode()).hexdigest(),
    )  # fmt: skip
    with reference.path.open("wb") as file:
        write_head(file, reference, windows)
        for _, _, logits in _blocks(model, windows):
            if not np.isfinite(logits).all():
                raise NotFinite
            file.write(np.ascontiguousarray(logits, "<f4").data)
    tell({"kept": True})


def divergence(model: Model, job: Mapping[str, Any]) -> None:
    """Compare with a store; tells {"compared": columns of P numbers}.

    Args:
        model: whose context holds a window.
        job: "store".
    """
    _, windows, kept = open_logits(Path(job["store"]))
    columns: dict[str, list[Any]] = {k: [] for k in ("kl", "same", "loss", "other_loss")}
    at = 0
    for window, block, logits in _blocks(model, windows):
        reference = np.array(kept[at : at + len(block)])
        at += len(block)
        if not np.isfinite(logits).all():
            raise NotFinite
        kl, log_z, other_log_z = kl_divergence(reference, logits, logits - reference)
        rows = np.arange(len(block))
        following = np.asarray(windows.ids[window])[np.asarray(block) + 1]
        columns["kl"] += kl.tolist()
        columns["same"] += (reference.argmax(axis=1) == logits.argmax(axis=1)).tolist()
        columns["loss"] += (log_z - reference[rows, following]).tolist()
        columns["other_loss"] += (other_log_z - logits[rows, following]).tolist()
    tell({"compared": columns})


def _blocks(model: Model, windows: Windows) -> Iterator[tuple[int, range, Logits]]:
    """Every window's measured positions in blocks: the window's index, the positions, their logits (P, V)."""
    rows = rows_at_once(model.n_vocab, model.n_batch)
    total = len(windows.ids) * (windows.measured.stop)
    for i, ids in enumerate(windows.ids):
        model.forget()
        _read(model, ids[: windows.measured.start], 0, last=False)
        for block in row_blocks(windows.measured, rows):
            yield i, block, model.read(ids[block.start : block.stop], block.start, block)
            done = i * windows.measured.stop + block.stop
            tell({"progress": [done, total, f"window {i + 1} of {len(windows.ids)}"]})


def rows_at_once(n_vocab: int, n_batch: int) -> int:
    """Positions whose logits are held at once: the parent reserves outputs for as many."""
    return max(1, min(n_batch, _BLOCK_LOGITS // n_vocab))


def _read(model: Model, ids: Sequence[int], start: int, *, last: bool) -> None:
    """Read any number of tokens in batches; the logits of the last, where wanted, are what a prompt is read for."""
    end = start + len(ids)
    outputs = range(end - 1, end) if last else _NONE
    for i in range(0, len(ids), model.n_batch):
        model.read(ids[i : i + model.n_batch], start + i, outputs)


TASKS: Final[Mapping[str, Callable[[Model, Mapping[str, Any]], None]]] = {
    "measure": measure,
    "planned": planned,
    "reference": keep_reference,
    "divergence": divergence,
}
