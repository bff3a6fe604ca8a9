"""Conversion of a checkpoint or an old ggml file to GGUF: prepare, check, write."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from converters.planned import PlannedTensor
from converters.prepare import DEFAULTS, ConversionOptions, Prepared, prepare
from converters.scan import Scan
from converters.stream import TensorWriter, write_all
from converters.tokenizer import UNUSED
from turbopilot.base.atomic import check_disk, check_output, replacing
from turbopilot.base.errors import InvalidInput
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.cursor import Value
from turbopilot.formats.gguf.split import MAX_PARTS, part_paths

# per vocabulary row, for its text, type and a merge; more than published models need
HEADER_BYTES_PER_ROW = 64


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """Result of a conversion."""

    path: Path  # the file, or the first part; for GPT-J, the folder
    n_files: int
    architecture: str
    gguf_architecture: str
    dtype: str  # the type that holds the most bytes
    n_tensors: int
    n_weights: int
    n_bytes: int  # of all parts
    n_dropped: int  # source tensors that are not converted
    n_tokens: int  # vocabulary rows that the tokenizer uses
    pre_tokenizer: str  # llama.cpp's name for it
    pre_origin: str  # how it was found, in words
    has_fim: bool
    seconds: float


def convert(
    source: Path,
    output: Path,
    options: ConversionOptions = DEFAULTS,
    *,
    dtype: str = "",
    progress: Progress = silent,
) -> ConversionReport:
    """Convert a checkpoint folder, or an old ggml `.bin`, to GGUF.

    Args:
        source: folder with config.json, a tokenizer and the weights; or a model file of the original TurboPilot.
        output: file to write; on failure it is not created.
        options: see `ConversionOptions`.
        dtype: type of the matrices: "f16" (the default), "bf16", "f32", "q8_0", or "auto" to keep each matrix's type.
            Vectors are always F32. Old files are copied unchanged.
        progress: called with bytes done, total bytes and the tensor's name.

    Raises:
        InvalidInput: a path or the dtype is invalid.
        UnsupportedModel: the family or a config value cannot be converted faithfully.
        TensorMismatch, TokenizerMismatch, CorruptCheckpoint: the checkpoint is inconsistent or damaged.
        NotEnoughDisk: the output does not fit.
    """
    began, force = time.monotonic(), options.force
    watch = SourceWatch([source])
    with prepare(source, dtype, options) as p:
        parts = split(p.plan.tensors, options.split_max_size)
        paths = part_paths(output, len(parts))
        folder = source if source.is_dir() else options.tokenizer
        for path in paths:
            check_output(path, force=force, inputs=tuple(p.files), outside=folder)
        check_disk(output.parent, p.plan.n_bytes + HEADER_BYTES_PER_ROW * p.plan.dims.n_vocab)
        metadata = _metadata(p, options.name or source.resolve().name.removesuffix(".bin"))
        scanning = Scan(p.plan.sources, p.files, keep_nonfinite=force, rehash=options.rehash)
        with scanning as scan, ExitStack() as whole:
            writer = TensorWriter(p.checkpoint, p.plan, scan, progress, keep_nonfinite=force)
            # the first part is entered first and so renamed last: programs open a model by its first part
            targets = [whole.enter_context(replacing(path)) for path in paths]
            header = _write(targets, parts, metadata, writer)
            progress(p.plan.n_bytes, p.plan.n_bytes, "checking the source")
            digests = scan.sha256()
            for i, path in enumerate(p.files):
                header = header.replace(_placeholder(i).encode(), digests[path].encode())
            with FileIO(targets[0], "r+") as out:
                write_all(out, header)
            watch.check(p.files)
    return ConversionReport(
        path=paths[0], n_files=len(paths), architecture=p.plan.spec.architecture,
        gguf_architecture=p.plan.spec.gguf, dtype=p.plan.main_type, n_tensors=len(p.plan.tensors),
        n_weights=p.plan.n_weights, n_bytes=sum(path.stat().st_size for path in paths),
        n_dropped=len(p.plan.dropped), n_tokens=sum(kind != UNUSED for kind in p.tokenizer.types),
        pre_tokenizer=p.tokenizer.pre, pre_origin=p.tokenizer.pre_origin, has_fim=p.tokenizer.has_fim,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def split(
    tensors: Sequence[PlannedTensor], max_bytes: int
) -> tuple[tuple[PlannedTensor, ...], ...]:
    """Group consecutive tensors into parts of at most `max_bytes`; a larger tensor gets its own part."""
    parts: list[list[PlannedTensor]] = [[]]
    filled = 0
    for t in tensors:
        if max_bytes and parts[-1] and filled + t.n_bytes > max_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(t)
        filled += t.n_bytes
    if len(parts) > MAX_PARTS:
        raise InvalidInput(
            f"--split-max-size {max_bytes}: would create {len(parts):,} files",
            hint="give a larger size",
        )
    return tuple(tuple(part) for part in parts)


def _metadata(p: Prepared, name: str) -> dict[str, Value]:
    """Return every metadata key except the architecture; digests are placeholders of the same length."""
    return {
        "general.name": name,
        **p.provenance.metadata(),
        "turbopilot.source.architecture": p.plan.spec.architecture,
        "turbopilot.source.files": [f.name for f in p.files],
        "turbopilot.source.sha256": [_placeholder(i) for i in range(len(p.files))],
        **p.plan.metadata,
        **p.tokenizer.metadata(),
    }


def _placeholder(i: int) -> str:
    return f"sha-256 of source file {i}".ljust(64, ".")


def _write(
    targets: Sequence[Path],
    parts: Sequence[Sequence[PlannedTensor]],
    metadata: dict[str, Value],
    writer: TensorWriter,
) -> bytes:
    """Write every part; return the header of the first."""
    from converters.writer import header, write_data  # imports gguf, only if needed

    plan = writer.plan
    heads = []
    for i, (target, tensors) in enumerate(zip(targets, parts, strict=True)):
        part = (i, len(parts), len(plan.tensors)) if len(parts) > 1 else None
        values = {} if i else metadata
        heads.append(header(plan.spec.gguf, values, tensors, part=part, file_type=plan.main_type))
        with FileIO(target, "w") as out:
            write_all(out, heads[-1])
            write_data(out, tensors, writer)
    return heads[0]
