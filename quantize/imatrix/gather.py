"""The verb: check, start the process that runs the model, follow it, write the matrix. Never loads llama.cpp itself."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quantize.imatrix.check import check_matrix
from quantize.imatrix.checkpoint import Gathered, load_gathered
from quantize.imatrix.file import write_imatrix
from quantize.imatrix.matrix import Imatrix
from quantize.imatrix.merge import merge
from turbopilot.base.atomic import check_disk, check_output
from turbopilot.base.errors import InvalidInput, QuantizationError, ServeError
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_child


@dataclass(frozen=True, slots=True)
class GatherReport:
    """What was gathered.

    Attributes:
        path: the matrix.
        model: what it is of.
        dataset: the text's name.
        n_chunks: pieces of the text that were read.
        n_text_chunks: pieces that the text holds.
        chunk_size: tokens in each.
        n_entries: weights that it tells of.
        n_unseen: experts that no token came to; their columns count alike.
        perplexity: of the model on the second halves of the chunks; None where it is not finite.
        resumed_from: chunks that an earlier run had read.
        notices: what a person should know.
        seconds: that it took.
    """

    path: Path
    model: Path
    dataset: str
    n_chunks: int
    n_text_chunks: int
    chunk_size: int
    n_entries: int
    n_unseen: int
    perplexity: float | None
    resumed_from: int
    notices: tuple[str, ...]
    seconds: float


def resume_path(output: Path) -> Path:
    """Where what has been gathered is kept until it is whole."""
    return output.with_name(output.name + ".resume")


def gather(
    model: Path,
    output: Path,
    text: str,
    *,
    dataset: str,
    chunks: int | None = None,
    chunk_size: int = 512,
    seconds: float = 0,
    threads: int = 0,
    n_gpu_layers: int | None = None,
    process_output: bool = False,
    others: Sequence[Imatrix] = (),
    force: bool = False,
    progress: Progress = silent,
) -> GatherReport:
    """Run a model over a text, and note the mean square of what comes into each of its weights.

    What has been gathered is kept beside the output while it runs; the same call goes on from there after an
    interruption, and ends in the same matrix.

    Args:
        model: a GGUF of any type that llama.cpp runs; from a quantized one comes nearly the same matrix.
        output: the file to write, in llama-imatrix's form.
        text: like what the model will be used for; at least one chunk.
        dataset: the text's name, for the file.
        chunks: read no more than so many; None is all of the text.
        chunk_size: tokens that the model sees at once.
        seconds: begin no further chunk after so long; 0 for no limit.
        threads: 0 means all cores.
        n_gpu_layers: layers on the GPU; None is all where there is one.
        process_output: the output head too. llama.cpp gives the head a large type anyway.
        others: earlier matrices of the model, to be merged with this one.
        force: overwrite `output`.
        progress: called with chunks done, chunks in all, and the perplexity so far.

    Raises:
        InvalidInput: a path, the text or the chunk size cannot be used.
        CorruptModel: `model` is not a usable GGUF, or llama.cpp cannot load it.
        NotEnoughDisk: the matrix would not fit.
        QuantizationError: llama.cpp failed, the model computes what is not finite, or one of `others` is not of it.
    """
    began = time.monotonic()
    header = read_gguf(model)
    check_model(header)
    check_output(output, force=force, inputs=(model,))
    _check_chunks(header, chunks, chunk_size)
    check_disk(output.parent, _size_of_files(header))
    for other in others:
        check_matrix(other, header)
    resume = resume_path(output)
    fingerprint = _fingerprint(header, text, chunk_size, process_output)
    told = _Told(progress)
    job = {
        "model": str(model), "text": text, "resume": str(resume), "fingerprint": fingerprint,
        "chunks": chunks, "seconds": seconds, "chunk_size": chunk_size, "n_gpu_layers": n_gpu_layers,
        "threads": threads or _usable_cores(), "process_output": process_output,
    }  # fmt: skip
    try:
        run_child("quantize.imatrix.llama_gather", job, on_message=told.hear)
    except ServeError as e:
        raise QuantizationError(
            f"{model}: llama.cpp, gathering an importance matrix, {e.message}",
            hint="is memory short? a smaller --ctx or a quantized file needs less",
        ) from None
    finally:
        with suppress(OSError):  # where it was ended while it wrote
            resume.with_name(resume.name + ".part").unlink(missing_ok=True)
    found = load_gathered(resume, fingerprint)
    if not isinstance(found, Gathered):
        raise QuantizationError(f"{resume}: {found}", hint="run it again")
    matrix = found.imatrix(dataset, chunk_size)
    check_matrix(matrix, header)
    if others:
        matrix = merge([*others, matrix], chunk_size)
    write_imatrix(output, matrix, {"turbopilot.imatrix.model": model.name})
    resume.unlink()
    return GatherReport(
        path=output, model=model, dataset=dataset, n_chunks=found.n_chunks, n_text_chunks=told.n_text_chunks,
        chunk_size=chunk_size, n_entries=len(matrix.entries), perplexity=told.perplexity,
        resumed_from=told.resumed_from, n_unseen=sum(int((e.counts == 0).sum()) for e in matrix.entries.values()),
        notices=tuple(told.notices), seconds=time.monotonic() - began,
    )  # fmt: skip


class _Told:
    """What the child has told."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.notices: list[str] = []
        self.perplexity: float | None = None
        self.resumed_from = self.n_text_chunks = 0

    def hear(self, told: Mapping[str, Any]) -> None:
        match told:
            case {"text_chunks": int(n)}:
                self.n_text_chunks = n
            case {"notice": str(notice)}:
                self.notices.append(notice)
            case {"chunks": int(done), "of": int(total), "from": int(start), "perplexity": value}:
                self.perplexity, self.resumed_from = value, start
                what = f"perplexity {value:.2f}" if value is not None else ""
                self.progress(done, total, what)


def _check_chunks(header: GgufHeader, chunks: int | None, chunk_size: int) -> None:
    longest = header.metadata.get(f"{header.architecture}.context_length")
    if isinstance(longest, int) and chunk_size > longest:
        raise InvalidInput(
            f"{header.path}: reads at most {longest:,} tokens at once, not chunks of {chunk_size:,}",
            hint="give a smaller --ctx",
        )
    if chunk_size < 2 or (chunks is not None and chunks < 1):
        raise InvalidInput(
            f"{chunks} chunks of {chunk_size} tokens: nothing to read",
            hint="give at least one chunk, of at least two tokens",
        )


def _size_of_files(header: GgufHeader) -> int:
    """Bytes of the matrix (float32) and of what is kept meanwhile (float64, twice while it is replaced)."""
    matrices = [t.shape for t in header.tensors if len(t.shape) > 1]
    return 20 * sum(shape[0] * prod(shape[2:]) for shape in matrices)


def _fingerprint(
    header: GgufHeader, text: str, chunk_size: int, process_output: bool
) -> dict[str, Any]:
    """Of all that the sums depend on: another one's cannot be gone on from."""
    files = {t.path for t in header.tensors}
    return {
        "model": str(header.path.resolve()),
        "size": header.file_size,
        "mtime_ns": max(path.stat().st_mtime_ns for path in files),
        "text": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
        "chunk_size": chunk_size,
        "process_output": process_output,
        "numpy": np.__version__,
    }


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
