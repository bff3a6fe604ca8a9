"""Quantize a file: plan, check, and let llama.cpp write in a child process."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.imatrix import Imatrix, check_matrix, read_imatrix
from quantize.options import QuantizeOptions
from quantize.preview import Preview, preview_of
from quantize.provenance import SourceDigests, metadata
from quantize.recipes import TENSOR_TYPES, Recipe, find_recipe
from turbopilot.base.atomic import check_disk, check_output, replacing
from turbopilot.base.errors import QuantizationError, ServeError
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.digest import CERTIFICATE
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.formats.gguf.split import files_of, part_paths
from turbopilot.llama.child import run_child

_DEFAULTS = QuantizeOptions()
# "[  12/  49] blk.0.attn_q.weight - [ 256, …], type = f16, size = 1.00 MiB -> 0.28 MiB (q4_0)"
_TENSOR_LINE = re.compile(r"\[\s*(?P<done>\d+)/\s*(?P<of>\d+)\]\s+(?P<name>\S+)")


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Source and output as their headers describe them.

    `types_…` are bytes by type; `fallbacks` has a line for each tensor whose rows did not fit the type's blocks.
    """

    source: Path
    path: Path
    recipe: str
    bytes_before: int
    bytes_after: int
    bits_before: float
    bits_after: float
    types_before: dict[str, int]
    types_after: dict[str, int]
    fallbacks: tuple[str, ...]
    seconds: float


def plan(source: Path, type_name: str, options: QuantizeOptions = _DEFAULTS) -> Preview:
    """Plan what `quantize` would do with each tensor.

    Raises as `quantize`, but lists tensors that are quantized already, and absent matrices, in the preview.
    """
    before = read_gguf(source)
    _matrix(before, options)
    return preview_of(before, find_recipe(type_name), options)


def quantize(
    source: Path,
    output: Path,
    type_name: str,
    options: QuantizeOptions = _DEFAULTS,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> QuantizeReport:
    """Quantize an F32, F16 or BF16 GGUF with llama.cpp; others only with `options.allow_requantize`.

    A model that stays split becomes `NAME-00001-of-0000N.gguf` and so on. `progress` gets tensors done, all tensors,
    and the tensor's name.

    Raises:
        InvalidInput, CorruptModel: a path, the type, an option or the source cannot be used.
        QuantizationError: it would lose twice, a matrix is absent or of another model, or llama.cpp failed.
        NotEnoughDisk: the output would not fit.
    """
    began = time.monotonic()
    recipe, watch = find_recipe(type_name), SourceWatch(files_of(source))
    before = read_gguf(source)
    imatrix = _matrix(before, options)
    preview = preview_of(before, recipe, options)
    paths = part_paths(output, before.n_files if options.keep_split else 1)
    for path in paths:
        check_output(path, force=force, inputs=files_of(source))
    _check_plan(preview, before, imatrix, options)
    check_disk(output.parent, preview.file_bytes)
    with ExitStack() as whole:
        # The first part is renamed last: it is the one that a program is given.
        parts = [whole.enter_context(replacing(path)) for path in paths]
        digests = whole.enter_context(SourceDigests(before, options.digests))
        keys = {**options.metadata, **metadata(before, imatrix, options.imatrix)}
        job = _job(before, recipe, options, keys)
        try:
            _write(job, parts, progress)
        except ServeError as e:
            full = "iostream error" in e.message  # a C++ stream's only word for a failed write
            raise QuantizationError(
                f"{source}: llama.cpp, quantizing to {recipe.name}, {e.message}",
                hint="is the disk full? nothing was kept" if full else "nothing was written",
            ) from None
        # llama.cpp copies all metadata, but the source's certificate does not hold for this file.
        if any(key.startswith(CERTIFICATE) for key in before.metadata):
            set_metadata(parts[0], remove=CERTIFICATE)
        progress(len(preview.tensors), len(preview.tensors), "digest of the source")
        digests.write_into(parts[0])
        watch.check(files_of(source))
    after = read_gguf(paths[0])
    return QuantizeReport(
        source=source, path=after.path, recipe=recipe.name,
        bytes_before=before.file_size, bytes_after=after.file_size,
        bits_before=before.bits_per_weight, bits_after=after.bits_per_weight,
        types_before=before.bytes_by_type(), types_after=after.bytes_by_type(),
        fallbacks=preview.fallbacks(), seconds=time.monotonic() - began,
    )  # fmt: skip


def _matrix(before: GgufHeader, options: QuantizeOptions) -> Imatrix | None:
    if options.imatrix is None:
        return None
    imatrix = read_imatrix(options.imatrix)
    check_matrix(imatrix, before)
    return imatrix


def _check_plan(
    preview: Preview, before: GgufHeader, imatrix: Imatrix | None, options: QuantizeOptions
) -> None:
    if not options.allow_requantize and (again := preview.requantized()):
        raise QuantizationError(
            f"{before.path}: is in {before.main_type()} already; quantizing it again would lose twice "
            f"({len(again)} tensors, {again[0].name} first)",
            hint="start from the F16 or F32 file that turbopilot convert wrote, or give --allow-requantize",
        )
    if missing := preview.without_imatrix(imatrix.entries if imatrix else ()):
        has = "has no entry of" if imatrix else "is needed for"
        raise QuantizationError(
            f"{preview.name}: an importance matrix {has} {missing[0].name} ({missing[0].after})"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            hint="--imatrix auto makes one; the smallest types without one are Q2_K and Q3_K_S",
        )


def _job(
    before: GgufHeader, recipe: Recipe, options: QuantizeOptions, keys: Mapping[str, str | int]
) -> dict[str, Any]:
    fields = {
        "ftype": recipe.ftype, "nthread": options.threads or os.cpu_count() or 1, "pure": options.pure,
        "allow_requantize": options.allow_requantize,
        "output_tensor_type": TENSOR_TYPES.get(options.output_type),
        "token_embedding_type": TENSOR_TYPES.get(options.embedding_type),
    }  # fmt: skip
    return {
        "source": str(before.path), "fields": fields, "metadata": keys,
        "overrides": [(o.pattern, TENSOR_TYPES[o.type_name]) for o in options.overrides],
        "imatrix": str(options.imatrix) if options.imatrix else None,
    }  # fmt: skip


def _write(job: dict[str, Any], parts: Sequence[Path], progress: Progress) -> None:
    """Let llama.cpp write the parts; it chooses their names itself if the model stays split."""
    split = len(parts) > 1
    prefix = parts[0].with_name(parts[0].name.removesuffix(".part"))
    written = part_paths(prefix.with_name(f"{prefix.name}.gguf"), len(parts)) if split else ()
    job["fields"]["keep_split"] = split
    job["output"] = str(prefix if split else parts[0])

    def on_log(line: str) -> None:
        if match := _TENSOR_LINE.match(line.lstrip()):
            progress(int(match["done"]), int(match["of"]), match["name"])

    try:
        run_child("quantize.llama_quantize", job, on_log=on_log)
        for one, part in zip(written, parts, strict=False):
            one.replace(part)
    finally:
        for one in written:
            one.unlink(missing_ok=True)
