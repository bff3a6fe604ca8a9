"""Child process that runs the model over the text; see `quantize.imatrix.gather`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from quantize.imatrix.checkpoint import Gathered, load_gathered
from quantize.imatrix.collect import Collector
from turbopilot.base.errors import QuantizationError
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import run_job, send
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.fitting import fitted
from turbopilot.llama.footprint import UBATCH
from turbopilot.llama.ggml_tensor import Ggml, LayoutChanged
from turbopilot.llama.library import ggml
from turbopilot.llama.model import LlamaModel
from turbopilot.llama.placement_wish import PlacementWish

_SAVE_SECONDS: Final = 30  # longest time between two saves; shorter if saving is cheap
_SAVE_SHARE: Final = 0.05  # share of the time that saving may take, for a shorter interval


def main() -> None:
    """Gather the sums and save them in the resume file.

    The job has {"model", "text", "resume", "fingerprint"} and the fields of `GatherOptions`. Messages are
    {"text_chunks"} at the start, {"chunks", "of", "from", "perplexity"} after each chunk, and {"notice"}.
    """
    run_job(_gather)


def _gather(job: dict[str, Any]) -> None:
    path, chunk_size = Path(job["model"]), job["chunk_size"]
    header, n_batch = read_gguf(path), min(chunk_size, UBATCH)
    need = ContextNeed(chunk_size, n_batch=n_batch, n_outputs=n_batch)
    model = LlamaModel(header, fitted(header, need, PlacementWish.from_json(job["placement"])))
    tokens = model.tokenize(job["text"], parse_special=False)  # like llama-imatrix
    if model.first_token is not None:
        tokens.insert(0, model.first_token)
    n_chunks = min(len(tokens) // chunk_size, job["chunks"] or len(tokens))
    if n_chunks < 1:
        raise QuantizationError(
            f"{path}: the text is {len(tokens):,} tokens long, less than one chunk of {chunk_size:,}",
            hint="give a longer text, or smaller chunks with --ctx",
        )
    send({"text_chunks": len(tokens) // chunk_size})
    collector = Collector(Ggml(ggml), process_output=job["process_output"])
    # One graph for each batch.
    parameters = ContextParameters(
        chunk_size, n_batch, n_threads=job["threads"], on_node=collector.on_node
    )
    context = LlamaContext(model, parameters)
    gathered = collector.into = _resumed(job, n_chunks)
    began_with = gathered.n_chunks
    _send_progress(gathered, n_chunks, began_with)
    saved, cost = time.monotonic(), 0.0
    last = saved + (job["seconds"] or math.inf)
    for i in range(began_with, n_chunks):
        if i > began_with and time.monotonic() > last:
            break
        _read(path, context, tokens[i * chunk_size : (i + 1) * chunk_size], collector)
        now = time.monotonic()
        if now - saved >= min(_SAVE_SECONDS, cost / _SAVE_SHARE):
            gathered.save(Path(job["resume"]), job["fingerprint"])
            saved = time.monotonic()
            cost = saved - now
        _send_progress(gathered, n_chunks, began_with)
    gathered.save(Path(job["resume"]), job["fingerprint"])


def _send_progress(gathered: Gathered, n_chunks: int, began_with: int) -> None:
    perplexity = gathered.perplexity if math.isfinite(gathered.perplexity) else None
    done = gathered.n_chunks
    send({"chunks": done, "of": n_chunks, "from": began_with, "perplexity": perplexity})


def _resumed(job: dict[str, Any], n_chunks: int) -> Gathered:
    path = Path(job["resume"])
    if not path.exists():
        return Gathered()
    found = load_gathered(path, job["fingerprint"])
    if isinstance(found, Gathered) and found.n_chunks <= n_chunks:
        return found
    why = found if isinstance(found, str) else f"it already has {found.n_chunks:,} chunks"
    send({"notice": f"{path}: not used: {why}"})
    return Gathered()


def _read(path: Path, context: LlamaContext, piece: list[int], collector: Collector) -> None:
    """Decode one chunk from an empty KV cache, and score its second half, as llama.cpp's tools do."""
    first = context.model.first_token
    fed = piece if first is None else [first, *piece[1:]]
    gathered = collector.into
    measured = range(len(piece) // 2, len(piece) - 1)  # no token follows the last
    context.clear()
    for start in range(0, len(fed), context.n_batch):
        part = fed[start : start + context.n_batch]
        collector.next_graph()
        try:
            # Request logits of all tokens: otherwise the last layer would skip some of them.
            logits = context.read(part, start, range(len(fed)))
        except QuantizationError as e:
            raise QuantizationError(f"{path}: {e.message}", hint=e.hint) from None
        except LayoutChanged as e:
            raise QuantizationError(
                f"{path}: this version of llama.cpp has an unknown tensor layout: {e}",
                hint="install the llama-cpp-python version that turbopilot requires, or report this",
            ) from e
        begin, end = max(start, measured.start), min(start + len(part), measured.stop)
        if begin < end:
            rows = logits[begin - start : end - start]
            gathered.nll += _nll(rows, piece[begin + 1 : end + 1])
            gathered.n_scored += end - begin
    gathered.n_chunks += 1


def _nll(logits: Any, targets: list[int]) -> float:
    """Return the sum of negative log-likelihoods of the targets (T), given logits (T, V).

    Rows are processed in small blocks to stay in the processor's cache.
    """
    total = 0.0
    for i in range(0, len(targets), 16):
        rows = logits[i : i + 16]
        highest = rows.max(axis=1)
        sums = np.exp(rows - highest[:, None]).sum(axis=1, dtype=np.float64)
        chosen = rows[np.arange(len(rows)), targets[i : i + 16]]
        total += float((np.log(sums) + highest - chosen).sum())
    return total


if __name__ == "__main__":
    main()
