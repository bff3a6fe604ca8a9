"""The process that gathers: runs the model over the text. The only module here that imports llama_cpp for it.

Started by `quantize.imatrix.gather`. Tells {"text_chunks"}, {"chunks", "of", "from", "perplexity"} after
each chunk, and {"notice"} or {"error", "hint"}; what it has gathered is in the resume file when it ends.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from quantize.imatrix.checkpoint import Gathered, load_gathered
from quantize.imatrix.collect import Collector
from quantize.imatrix.ggml_tensor import Ggml, LayoutChanged
from turbopilot.base.errors import TurboPilotError
from turbopilot.llama.child import leave, listen, read_job, tell

_BATCH = 512  # tokens in one graph: llama.cpp's own n_ubatch
_SAVE_SECONDS = 30  # at the latest; sooner where it is cheap
_SAVE_SHARE = 0.05  # of the time


def main() -> None:
    """Read {"model", "text", "resume", "fingerprint", "chunks", "chunk_size", …}; leave with 0, or 1 and an error."""
    job = read_job()
    try:
        _gather(job)
    except TurboPilotError as e:
        _fail(e.message, e.hint)
    leave(0)


def _fail(message: str, hint: str = "") -> None:
    tell({"error": message, "hint": hint})
    leave(1)


def _gather(job: dict[str, Any]) -> None:
    import llama_cpp

    listen(llama_cpp)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    if job["n_gpu_layers"] is not None:  # llama.cpp's own choice is all, where there is a GPU
        params.n_gpu_layers = job["n_gpu_layers"]
    model = llama_cpp.llama_model_load_from_file(os.fsencode(job["model"]), params)
    if not model:
        leave(1)  # in llama.cpp's words
    if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
        _fail("is no model that completes text", "give a language model")
    chunk_size = job["chunk_size"]
    tokens = _tokens(llama_cpp, model, job["text"])
    n_chunks = min(len(tokens) // chunk_size, job["chunks"] or len(tokens))
    if n_chunks < 1:
        _fail(
            f"the text is {len(tokens):,} tokens long, less than one chunk of {chunk_size:,}",
            "give more text, or smaller chunks with --ctx",
        )
    tell({"text_chunks": len(tokens) // chunk_size})
    gathered = _resumed(job, n_chunks)
    collector = Collector(_ggml(), gathered, process_output=job["process_output"])
    callback = _callback(llama_cpp, collector)  # in a live variable: C keeps only a pointer
    context = _context(llama_cpp, model, chunk_size, job["threads"], callback)
    began_with = gathered.n_chunks
    _tell_progress(gathered, n_chunks, began_with)
    saved, cost = time.monotonic(), 0.0
    last = saved + (job["seconds"] or math.inf)
    for i in range(began_with, n_chunks):
        if i > began_with and time.monotonic() > last:
            break
        piece = tokens[i * chunk_size : (i + 1) * chunk_size]
        _read(llama_cpp, model, context, piece, collector, gathered)
        gathered.n_chunks += 1
        now = time.monotonic()
        if now - saved >= min(_SAVE_SECONDS, cost / _SAVE_SHARE):
            gathered.save(Path(job["resume"]), job["fingerprint"])
            saved = time.monotonic()
            cost = saved - now
        _tell_progress(gathered, n_chunks, began_with)
    gathered.save(Path(job["resume"]), job["fingerprint"])
    del callback


def _tell_progress(gathered: Gathered, n_chunks: int, began_with: int) -> None:
    perplexity = gathered.perplexity
    tell(
        {
            "chunks": gathered.n_chunks, "of": n_chunks, "from": began_with,
            "perplexity": perplexity if math.isfinite(perplexity) else None,
        }
    )  # fmt: skip


def _resumed(job: dict[str, Any], n_chunks: int) -> Gathered:
    path = Path(job["resume"])
    if not path.exists():
        return Gathered()
    found = load_gathered(path, job["fingerprint"])
    if isinstance(found, Gathered) and found.n_chunks <= n_chunks:
        return found
    why = found if isinstance(found, str) else f"it has {found.n_chunks:,} chunks already"
    tell({"notice": f"{path}: not used: {why}"})
    return Gathered()


def _ggml() -> Ggml:
    from llama_cpp import _ggml as bindings

    try:
        return Ggml(bindings.libggml)
    except (
        AttributeError
    ):  # Windows looks for functions in the library itself, not in those that it needs
        base = bindings.ctypes_ext.load_shared_library("ggml-base", bindings.libggml_base_path)
        return Ggml(base)


def _callback(llama_cpp: Any, collector: Collector) -> Any:
    """What llama.cpp calls with every node, first to ask, then, where we want it, when it is computed."""

    def on_node(address: int, ask: bool, _data: Any) -> bool:
        # An exception must not go back into C: ctypes would print it, and llama.cpp go on without us.
        try:
            if ask:
                return collector.wants(address)
            collector.take(address)
        except TurboPilotError as e:
            _fail(e.message, e.hint)
        except LayoutChanged as e:
            _fail(
                f"this llama.cpp lays out its tensors otherwise than we know: {e}",
                "install the llama-cpp-python that turbopilot was made for, or report this",
            )
        except BaseException:
            traceback.print_exc()
            leave(1)
        return True

    return llama_cpp.ggml_backend_sched_eval_callback(on_node)


def _context(llama_cpp: Any, model: Any, chunk_size: int, threads: int, callback: Any) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = chunk_size
    params.n_batch = params.n_ubatch = min(chunk_size, _BATCH)  # one graph a batch
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = threads
    params.cb_eval = callback
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        leave(1)
    return context


def _tokens(llama_cpp: Any, model: Any, text: str) -> list[int]:
    """As llama-imatrix cuts it: whole, with what the vocabulary puts before it; what looks special is text."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    data = text.encode("utf-8", "replace")
    room = len(data) + 16  # a token is at least one byte of text
    buffer = (llama_cpp.llama_token * room)()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), buffer, room, True, False)
    if n < 0:
        _fail(f"llama.cpp cannot tokenize a text of {len(data):,} bytes")
    if n and llama_cpp.llama_vocab_get_add_eos(vocab):
        n -= 1
    return list(buffer[:n])


def _read(
    llama_cpp: Any,
    model: Any,
    context: Any,
    piece: list[int],
    collector: Collector,
    gathered: Gathered,
) -> None:
    """One chunk, from an empty cache. The model's loss is measured on its second half, as llama.cpp's tools do."""
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    fed = list(piece)
    if llama_cpp.llama_vocab_get_add_bos(vocab):
        fed[0] = llama_cpp.llama_vocab_bos(vocab)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    size = min(len(fed), _BATCH)
    batch = llama_cpp.llama_batch_init(size, 0, 1)
    for start in range(0, len(fed), size):
        part = fed[start : start + size]
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = True  # else the last layer computes only some tokens
        collector.next_graph()
        code = llama_cpp.llama_decode(context, batch)
        if code:
            _fail(f"llama_decode failed with code {code}", "is memory short? give a smaller --ctx")
        first = max(start, len(piece) // 2)
        last = min(start + len(part), len(piece) - 1)  # what follows the last one is not known
        if first < last:
            logits = np.ctypeslib.as_array(
                ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float)),
                (len(part), n_vocab),
            )[first - start : last - start]
            gathered.nll += _nll(logits, piece[first + 1 : last + 1])
            gathered.n_scored += last - first
    llama_cpp.llama_batch_free(batch)


def _nll(logits: Any, targets: list[int]) -> float:
    """Sum of negative log-likelihoods; logits (T, V), a few rows at a time to stay in the cache."""
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
