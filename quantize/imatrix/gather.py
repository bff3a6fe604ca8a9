"""Gather an importance matrix by running the model in a child process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from quantize.imatrix.checkpoint import Gathered, load_gathered
from quantize.imatrix.file import write_imatrix
from quantize.imatrix.matrix import Imatrix, check_matrix, merge
from turbopilot.base.atomic import check_disk, check_output, locked, remove_leftovers
from turbopilot.base.errors import InvalidInput, QuantizationError, ServeError
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.machine import usable_cores
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.formats.gguf.split import files_of
from turbopilot.llama.child import run_child
from turbopilot.llama.placement_wish import PlacementWish


@dataclass(frozen=True, slots=True)
class GatherOptions:
    """Options for gathering an importance matrix.

    Attributes:
        dataset: name of the text.
        chunks: maximum number of chunks to read; None for the whole text.
        chunk_size: tokens in a chunk; each chunk starts with an empty KV cache.
        seconds: start no further chunk after this time; 0 for no limit.
        threads: 0 uses all cores.
        placement: devices for the parts of the model.
        process_output: include the output head, for which llama.cpp uses a large type anyway.
        others: other importance matrices of the model to merge with this one.
    """

    dataset: str
    chunks: int | None = None
    chunk_size: int = 512
    seconds: float = 0
    threads: int = 0
    placement: PlacementWish = PlacementWish()  # noqa: RUF009 — frozen
    process_output: bool = False
    others: tuple[Imatrix, ...] = ()


@dataclass(frozen=True, slots=True)
class GatherReport:
    """Result of `gather`.

    Attributes:
        n_chunks: chunks read in total.
        n_text_chunks: chunks in the whole text.
        n_unseen: experts that no token was sent to; all their columns get the same weight.
        perplexity: on the second halves of the chunks; None if it is not finite.
        resumed_from: chunks that an earlier, interrupted run had read.
        notices: messages for the user.
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
    """Return the path of the file that stores the sums until the matrix is complete."""
    return output.with_name(output.name + ".resume")


def gather(
    model: Path,
    output: Path,
    text: str,
    options: GatherOptions,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> GatherReport:
    """Run a model file of any type over a text, and sum the squared inputs of each of its weights.

    The sums are saved in a file next to the output. After an interruption, the same call resumes from it and writes the
    same matrix. A quantized model gives nearly the same matrix as its source. `progress` receives the chunks done, all
    chunks, and the perplexity.

    Raises:
        InvalidInput: a path, the text or the chunk size cannot be used.
        CorruptModel: `model` is not a usable GGUF, or llama.cpp cannot load it.
        QuantizationError: llama.cpp failed, the model computes NaN or infinity, or `others` belong to another model.
    """
    began, watch = time.monotonic(), SourceWatch(files_of(model))
    header = _checked(model, output, options, force=force)
    resume, fingerprint = resume_path(output), _fingerprint(header, text, options)
    settings = {**asdict(replace(options, others=())), "threads": options.threads or usable_cores()}
    paths = {"model": str(model), "resume": str(resume)}
    job = {**settings, **paths, "text": text, "fingerprint": fingerprint}
    with locked(resume, partial(_refuse_second, output)):
        told = _run(job, progress)
        found = load_gathered(resume, fingerprint)
        if not isinstance(found, Gathered):
            raise QuantizationError(f"{resume}: {found}", hint="run the same command again")
        matrix = found.imatrix(options.dataset, options.chunk_size)
        check_matrix(matrix, header)
        if options.others:
            matrix = merge([*options.others, matrix], options.chunk_size)
        watch.check(files_of(model))
        write_imatrix(output, matrix, {"turbopilot.imatrix.model": model.name})
        resume.unlink(missing_ok=True)
    return GatherReport(
        path=output, model=model, dataset=options.dataset, n_chunks=found.n_chunks,
        n_text_chunks=told["text_chunks"], chunk_size=options.chunk_size, n_entries=len(matrix.entries),
        n_unseen=sum(int((e.counts == 0).sum()) for e in matrix.entries.values()),
        perplexity=told["perplexity"], resumed_from=told["from"], notices=tuple(told["notices"]),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _refuse_second(output: Path) -> NoReturn:
    raise InvalidInput(
        f"{output}: another process is gathering this matrix",
        hint="wait until it is done, or choose another output with -o",
    )


def _run(job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Run the child, which writes the resume file, and return its messages, merged."""
    told: dict[str, Any] = {"perplexity": None, "from": 0, "text_chunks": 0, "notices": []}

    def hear(message: Mapping[str, Any]) -> None:
        told.update(message)
        if "notice" in message:
            told["notices"].append(message["notice"])
        if "chunks" in message:
            loss = message["perplexity"]
            what = f"perplexity {loss:.2f}" if loss is not None else ""
            progress(message["chunks"], message["of"], what)

    try:
        run_child("quantize.imatrix.llama_gather", job, on_message=hear)
    except ServeError as e:
        raise QuantizationError(
            f"{job['model']}: while gathering an importance matrix, llama.cpp {e.message}",
            hint="memory may be short: use a smaller --ctx or a quantized file",
        ) from None
    finally:
        remove_leftovers(Path(job["resume"]))  # if the child was killed while writing
    return told


def _checked(model: Path, output: Path, options: GatherOptions, *, force: bool) -> GgufHeader:
    """Check the arguments before starting the child, and return the model's header."""
    header = read_gguf(model)
    check_model(header)
    check_output(output, force=force, inputs=files_of(model))
    chunks, chunk_size = options.chunks, options.chunk_size
    longest = header.metadata.get(f"{header.architecture}.context_length")
    if isinstance(longest, int) and chunk_size > longest:
        raise InvalidInput(
            f"{model}: its context is at most {longest:,} tokens, less than a chunk of {chunk_size:,}",
            hint="give a smaller --ctx",
        )
    if chunk_size < 2 or (chunks is not None and chunks < 1):
        raise InvalidInput(
            f"{chunks} chunks of {chunk_size} tokens: nothing to read",
            hint="give at least one chunk of at least two tokens",
        )
    # Space for the matrix (float32) and the resume file (float64, twice while it is being replaced).
    matrices = [t.shape for t in header.tensors if len(t.shape) > 1]
    check_disk(output.parent, 20 * sum(shape[0] * prod(shape[2:]) for shape in matrices))
    for other in options.others:
        check_matrix(other, header)
    return header


def _fingerprint(header: GgufHeader, text: str, options: GatherOptions) -> dict[str, Any]:
    """Return everything that the sums depend on."""
    files = {t.path for t in header.tensors}
    return {
        "model": str(header.path.resolve()),
        "size": header.file_size,
        "mtime_ns": max(path.stat().st_mtime_ns for path in files),
        "text": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
        "chunk_size": options.chunk_size,
        "process_output": options.process_output,
        "numpy": np.__version__,
    }
