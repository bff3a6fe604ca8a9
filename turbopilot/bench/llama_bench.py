"""Child process that measures a model; see `bench.measurement`. P positions, V vocabulary size."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from turbopilot.base.atomic import FULL
from turbopilot.base.errors import CorruptModel, DecoderFailed, InvalidInput, NotEnoughDisk
from turbopilot.base.kl_divergence import Logits, kl_divergence
from turbopilot.base.machine import usable_cores
from turbopilot.bench.resident import drop_mapped, resident
from turbopilot.bench.setup import Setup
from turbopilot.bench.windows import Reference, Windows, cut, row_blocks, rows_at_once
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_job, send
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.fitting import find_devices, fitted
from turbopilot.llama.flash_attention import AUTO, flash_attention
from turbopilot.llama.library import VERSION, llama_cpp
from turbopilot.llama.model import LlamaModel

Job = Mapping[str, Any]


def main() -> None:
    """Run the job on stdin.

    Load {"path", "setup", "n_ctx"} as `serve` does, send {"base"}, {"loaded"} and {"places"}, and run the {"task"} from
    `TASKS`.
    """
    run_job(_run)


def _run(job: Job) -> None:
    send({"base": resident().now})  # numpy and llama.cpp's library, without the model
    path, setup = Path(job["path"]), Setup.from_json(job["setup"])
    header = read_gguf(path)
    no_alloc = job["task"] == "planned"
    need = setup.need(job["n_ctx"])
    model = LlamaModel(header, fitted(header, need, setup.placement, no_alloc=no_alloc))
    parameters = context_parameters(header, setup, job["n_ctx"], uses_gpu=model.uses_gpu)
    context = LlamaContext(model, parameters)
    loaded = {
        "n_ctx": context.n_cells, "n_threads": setup.n_threads or usable_cores(), "llama_cpp": VERSION,
        "devices": [str(d) for d in model.devices],
        "built_for": llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(),
    }  # fmt: skip
    send({"loaded": loaded, "places": {str(d): d.buffer for d in model.devices}})
    try:
        TASKS[job["task"]](context, job)
    except DecoderFailed as e:
        raise DecoderFailed(f"{path}: {e.message}", hint="memory may be short") from None
    except OSError as e:  # from the file of the reference's logits
        what = f"{path}: its logits could not be saved or read: {e.strerror or e}"
        if e.errno in FULL:
            hint = "free disk space, measure fewer positions, or save the logits elsewhere (TMPDIR)"
            raise NotEnoughDisk(what, hint=hint) from None
        raise InvalidInput(what) from None


def context_parameters(
    header: GgufHeader, setup: Setup, n_ctx: int, *, uses_gpu: bool
) -> ContextParameters:
    """Return the parameters that `serve` would use for a context of `n_ctx` tokens before it has tuned itself."""
    parameters = ContextParameters(
        n_ctx, min(setup.n_batch, n_ctx), setup.n_seq, setup.n_outputs, setup.n_threads,
        setup.cache_type.lower(),
    )  # fmt: skip
    attention = flash_attention(header, parameters, uses_gpu=uses_gpu, wanted=setup.flash_attention)
    return replace(parameters, flash_attention=AUTO if attention is None else attention)


def measure(context: LlamaContext, job: Job) -> None:
    """Send {"rates": {"prompt", "generation"}}, in tokens/s for each repeat, and {"memory"}.

    The job has "n_prompt", "n_gen", "repeats" (0 to time nothing), "memory" and "n_ctx". "n_ctx" is needed because
    llama.cpp may allocate more cells than the model has positions.
    """
    n_prompt, n_gen, repeats = job["n_prompt"], job["n_gen"], job["repeats"]
    # Random tokens, as in llama-bench: their values do not affect speed.
    draw = random.Random(0)
    ids = [draw.randrange(context.model.n_vocab) for _ in range(n_prompt + n_gen)]
    last = min(n_prompt, job["n_ctx"] - 1)
    steps, done = (n_prompt + n_gen) * (repeats + 1), 0

    def advance(n: int, what: str) -> None:
        nonlocal done
        done += n
        send({"progress": [min(done, steps), steps, what]})

    def warm_up() -> None:
        _read(context, ids[:n_prompt], 0, last=True)
        context.read(ids[:1], last, range(last, last + 1))

    # Not timed: the first run reads weights from disk, touches memory and starts threads.
    warm_up()
    advance(n_prompt + n_gen, "warming up")
    rates: dict[str, list[float]] = {"prompt": [], "generation": []}
    for _ in range(repeats):
        context.clear()
        began = time.perf_counter()
        _read(context, ids[:n_prompt], 0, last=True)
        rates["prompt"].append(n_prompt / (time.perf_counter() - began))
        advance(n_prompt, "prefill")
        if n_gen:
            began = time.perf_counter()
            for at in range(n_prompt, n_prompt + n_gen):
                context.read(ids[at : at + 1], at, range(at, at + 1))
            rates["generation"].append(n_gen / (time.perf_counter() - began))
            advance(n_gen, "decode")
    send({"rates": rates})
    if job["memory"]:
        memory = _memory(context, job)
        if drop_mapped({t.path for t in context.model.header.tensors}):
            # The original pages of repacked weights are not read again.
            context.clear()
            warm_up()
            memory["needed"] = resident().now
        send({"memory": memory})


def planned(context: LlamaContext, job: Job) -> None:
    """Send {"memory"} of a model loaded without weights."""
    send({"memory": _memory(context, job)})


def _memory(context: LlamaContext, job: Job) -> dict[str, Any]:
    """Return the fields of `Memory` that this process can measure."""
    free = {str(d): d.free for d in context.model.devices}
    now_free = find_devices(Setup.from_json(job["setup"]).placement) if free else ()
    taken = {str(d): max(0, free.get(str(d), d.free) - d.free) for d in now_free}
    now = resident()
    return {**asdict(now), "needed": now.now, "devices": taken}


def keep_reference(context: LlamaContext, job: Job) -> None:
    """Write the logits of "text" to "store", given "length" and "positions"; send {"windows"}."""
    model = context.model
    ids = model.tokenize(job["text"], parse_special=False)
    windows = cut(ids, min(job["length"], job["n_ctx"]), job["positions"], model.first_token)
    # Written, not mapped, so that a full disk raises an error instead of a signal.
    with Path(job["store"]).open("wb") as file:
        for _, _, logits in _blocks(context, windows):
            file.write(np.ascontiguousarray(logits, "<f4").data)
    send({"windows": windows.ids})


def divergence(context: LlamaContext, job: Job) -> None:
    """Compare the model with the reference in "store" and "windows"; send {"compared": columns of P numbers}."""
    windows = Windows(job["windows"])
    kept = Reference(Path(job["store"]), "", context.model.n_vocab, windows).logits()
    columns: dict[str, list[Any]] = {k: [] for k in ("kl", "same", "loss", "other_loss")}
    at = 0
    for window, block, logits in _blocks(context, windows):
        reference = np.array(kept[at : at + len(block)])
        at += len(block)
        kl, log_z, other_log_z = kl_divergence(reference, logits, logits - reference)
        rows = np.arange(len(block))
        following = np.asarray(windows.ids[window])[np.asarray(block) + 1]
        columns["kl"] += kl.tolist()
        columns["same"] += (reference.argmax(axis=1) == logits.argmax(axis=1)).tolist()
        columns["loss"] += (log_z - reference[rows, following]).tolist()
        columns["other_loss"] += (other_log_z - logits[rows, following]).tolist()
    send({"compared": columns})


def _blocks(context: LlamaContext, windows: Windows) -> Iterator[tuple[int, range, Logits]]:
    """Yield the measured positions in blocks: the index of the window, the positions, and their logits (P, V)."""
    rows = rows_at_once(context.model.n_vocab, context.n_batch)
    each = windows.measured.stop
    for i, ids in enumerate(windows.ids):
        context.clear()
        _read(context, ids[: windows.measured.start], 0, last=False)
        for block in row_blocks(windows.measured, rows):
            logits = context.read(ids[block.start : block.stop], block.start, block)
            if not np.isfinite(logits).all():
                raise CorruptModel(
                    f"{context.model.header.path}: its logits are not finite",
                    hint="convert or quantize it again",
                )
            yield i, block, logits
            what = f"window {i + 1} of {len(windows.ids)}"
            send({"progress": [i * each + block.stop, len(windows.ids) * each, what]})


def _read(context: LlamaContext, ids: Sequence[int], start: int, *, last: bool) -> None:
    """Decode any number of tokens in batches, with the logits of the last token if `last`."""
    end = start + len(ids)
    outputs = range(end - 1, end) if last else range(0)
    for i in range(0, len(ids), context.n_batch):
        context.read(ids[i : i + context.n_batch], start + i, outputs)


TASKS: Final[Mapping[str, Callable[[LlamaContext, Job], None]]] = {
    "measure": measure,
    "planned": planned,
    "reference": keep_reference,
    "divergence": divergence,
}

if __name__ == "__main__":
    main()
