"""Quantize a file: plan and check, then run llama.cpp in a child process."""

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
from turbopilot.base.counts import count
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
    """Result of a quantization, read from the headers of the source and the output.

    `types_before` and `types_after` map types to bytes. `fallbacks` has a message for each tensor whose rows are not a
    multiple of the type's block size.
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
    """Return the type and size that `quantize` would give each tensor.

    Raises the same errors as `quantize`, except that the preview lists tensors that are already quantized or need an
    importance matrix.
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
    """Quantize an F32, F16 or BF16 GGUF with llama.cpp; other types only with `options.allow_requantize`.

    With `options.keep_split`, a split model becomes `NAME-00001-of-0000N.gguf` and so on. `progress` receives the
    tensors done, all tensors, and the name of the tensor.

    Raises:
        InvalidInput, CorruptModel: a path, the type, an option or the source cannot be used.
        QuantizationError: the source is already quantized, an importance matrix is missing or belongs to another model,
            or llama.cpp failed.
        NotEnoughDisk: the output would not fit.
    """
    began = time.monotonic()
    recipe = find_recipe(type_name)
    inputs = (*files_of(source), *([options.imatrix] if options.imatrix else ()))
    watch = SourceWatch(inputs)
    before = read_gguf(source)
    imatrix = _matrix(before, options)
    preview = preview_of(before, recipe, options)
    paths = part_paths(output, before.n_files if options.keep_split else 1)
    for path in paths:
        check_output(path, force=force, inputs=inputs)
    _check_plan(preview, before, imatrix, options)
    check_disk(output.parent, preview.file_bytes)
    with ExitStack() as whole:
        # The first part is renamed last, because it is the file that programs open.
        parts = [whole.enter_context(replacing(path)) for path in paths]
        digests = whole.enter_context(SourceDigests(before, options.digests))
        keys = {**options.metadata, **metadata(before, imatrix, options.imatrix)}
        job = _job(before, recipe, options, keys)
        try:
            _write(job, parts, progress)
        except ServeError as e:
            full = "iostream error" in e.message  # all that a C++ stream reports if a write fails
            raise QuantizationError(
                f"{source}: while quantizing to {recipe.name}, llama.cpp {e.message}",
                hint="the disk may be full; no output was kept" if full else "no output was kept",
            ) from None
        # llama.cpp copies all metadata, but the source's certificate is not valid for this file.
        if any(key.startswith(CERTIFICATE) for key in before.metadata):
            set_metadata(parts[0], remove=CERTIFICATE)
        progress(len(preview.tensors), len(preview.tensors), "digest of the source")
        digests.write_into(parts[0])
        watch.check(inputs)
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
            f"{before.path}: is already quantized to {before.main_type()}; quantizing it again loses more accuracy "
            f"({count(len(again), 'tensor')}, {again[0].name} first)",
            hint="start from the F16 or F32 file that turbopilot convert wrote, or give --allow-requantize",
        )
    if missing := preview.without_imatrix(imatrix.entries if imatrix else ()):
        has = (
            "the importance matrix has no entry for"
            if imatrix
            else "needs an importance matrix for"
        )
        raise QuantizationError(
            f"{preview.name}: {has} {missing[0].name} ({missing[0].after})"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            hint="give --imatrix auto; the smallest types that need no importance matrix are Q2_K and Q3_K_S",
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
    """Run llama.cpp to write the parts; llama.cpp chooses their names if the model stays split."""
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
