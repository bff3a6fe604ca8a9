"""The verb: plan, check, start the quantizing process, follow it, put its file in place. Loads no llama.cpp itself."""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from quantize.imatrix import Imatrix, check_matrix, read_imatrix
from quantize.options import Options
from quantize.preview import TENSOR_LINE, Preview, read_preview
from quantize.provenance import SourceDigests, metadata
from quantize.recipes import Recipe, find_recipe
from quantize.summary import QuantizeReport, summarise
from quantize.tensor_types import FLOATS, TENSOR_TYPES, check_overrides
from turbopilot.base.atomic import check_disk, check_output, replacing
from turbopilot.base.errors import InvalidInput, QuantizationError, ServeError
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.digest import CERTIFICATE
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.formats.gguf.split import part_paths
from turbopilot.llama.child import run_child


def quantize(
    source: Path,
    output: Path,
    type_name: str,
    options: Options | None = None,
    *,
    force: bool = False,
    memory: Path | None = None,
    extra: Mapping[str, str | int] | None = None,
    progress: Progress = silent,
) -> QuantizeReport:
    """Quantize a GGUF file with llama.cpp.

    Args:
        source: an F32, F16 or BF16 GGUF; others only with `options.allow_requantize`, since that loses twice.
        output: the file to write; it appears whole or not at all. With `options.keep_split`, of a model in
            several files, `NAME-00001-of-0000N.gguf` and so on.
        type_name: a name of `recipes.RECIPES`, in any case.
        options: everything else.
        force: overwrite `output`.
        memory: folder where the source's digest is remembered.
        extra: metadata keys to write beside ours.
        progress: called with tensors done, tensors in all and the tensor's name.

    Raises:
        InvalidInput: a path, the type or an option cannot be used.
        CorruptModel: `source` is not a usable GGUF.
        QuantizationError: it would lose twice, a matrix is absent or of another model, or llama.cpp failed.
        NotEnoughDisk: the output would not fit.
    """
    began = time.monotonic()
    job = _Job(source, find_recipe(type_name), options or Options())
    count = job.before.n_files if job.options.keep_split else 1
    paths = part_paths(output, count)
    for path in paths:
        check_output(path, force=force, inputs=(source,))
    with ExitStack() as whole:
        # The first part is renamed last: it is the one that a program is given.
        parts = [whole.enter_context(replacing(path)) for path in paths]
        digests = whole.enter_context(SourceDigests(job.before, memory))
        keys = metadata(job.before, job.imatrix, job.options.imatrix, _llama_cpp_version())
        preview = job.run(output, parts, {**(extra or {}), **keys}, progress)
        # llama.cpp copies all metadata; what the source was verified to be, its quantized file is not.
        if any(key.startswith(CERTIFICATE) for key in job.before.metadata):
            set_metadata(parts[0], remove=CERTIFICATE)
        progress(len(preview.tensors), len(preview.tensors), "digest of the source")
        digests.write_into(parts[0])
    after = read_gguf(paths[0])
    return summarise(job.before, after, preview, time.monotonic() - began)


def plan(source: Path, type_name: str, options: Options | None = None) -> Preview:
    """What `quantize` would do with each tensor; writes nothing.

    Raises:
        InvalidInput, CorruptModel, QuantizationError: as `quantize`, except that tensors which are quantized
            already, and matrices that are absent, are told of in the preview.
    """
    return _Job(source, find_recipe(type_name), options or Options()).preview()


class _Job:
    """One source, one type, and the options, checked as far as they can be before llama.cpp is asked."""

    def __init__(self, source: Path, recipe: Recipe, options: Options) -> None:
        self.recipe, self.options = recipe, options
        self.before = read_gguf(source)
        _check(self.before, recipe, options)
        self.imatrix: Imatrix | None = None
        if options.imatrix:
            self.imatrix = read_imatrix(options.imatrix)
            check_matrix(self.imatrix, self.before)

    def preview(self) -> Preview:
        """Ask llama.cpp what it would do."""
        lines = _Lines()
        try:
            job = self._job(Path(), {}, dry_run=True)
            run_child("quantize.llama_quantize", job, on_log=lines)
        except ServeError as e:
            raise self._failure(e.message) from None
        return read_preview(lines.whole, self.before, self.recipe.name)

    def run(
        self, output: Path, parts: list[Path], keys: Mapping[str, str | int], progress: Progress
    ) -> Preview:
        """Write the parts; llama.cpp plans first, and what it plans is checked before it writes much."""
        lines = _Lines()
        preview: list[Preview] = []

        def hear(told: Mapping[str, Any]) -> None:
            preview.append(read_preview(lines.whole, self.before, self.recipe.name))
            self._check_plan(preview[0])
            check_disk(output.parent, preview[0].file_bytes)

        def hear_line(line: str) -> None:
            if not preview:
                lines(line)
            elif match := TENSOR_LINE.match(line.lstrip()):
                progress(int(match["done"]), int(match["of"]), match["name"])

        # llama.cpp names the parts of a split model itself.
        written = part_paths(output.with_name(f"{output.stem}.part.gguf"), len(parts))
        target = output.with_name(f"{output.stem}.part") if len(parts) > 1 else parts[0]
        job = self._job(target, keys, split=len(parts) > 1)
        try:
            run_child("quantize.llama_quantize", job, on_message=hear, on_log=hear_line)
            for one, part in zip(written, parts if len(parts) > 1 else (), strict=False):
                one.replace(part)
        except ServeError as e:
            raise self._failure(e.message) from None
        finally:
            for one in written if len(parts) > 1 else ():
                one.unlink(missing_ok=True)
        return preview[0]

    def _job(
        self,
        output: Path,
        keys: Mapping[str, str | int],
        *,
        dry_run: bool = False,
        split: bool = False,
    ) -> dict[str, Any]:
        o = self.options
        fields = {
            "ftype": self.recipe.ftype, "nthread": o.threads or os.cpu_count() or 1,
            "pure": o.pure, "keep_split": split, "allow_requantize": o.allow_requantize,
            "output_tensor_type": TENSOR_TYPES.get(o.output_type),
            "token_embedding_type": TENSOR_TYPES.get(o.embedding_type),
        }  # fmt: skip
        return {
            "source": str(self.before.path), "output": str(output), "fields": fields, "metadata": dict(keys),
            "overrides": [(x.pattern, TENSOR_TYPES[x.type_name]) for x in o.overrides],
            "imatrix": str(o.imatrix) if o.imatrix else None, "dry_run": dry_run,
        }  # fmt: skip

    def _check_plan(self, preview: Preview) -> None:
        if not self.options.allow_requantize and (again := preview.requantized()):
            raise QuantizationError(
                f"{self.before.path}: is in {self.before.main_type()} already; quantizing it again would lose twice "
                f"({len(again)} tensors, {again[0].name} first)",
                hint="start from the F16 or F32 file that turbopilot convert wrote, or say --allow-requantize",
            )
        if missing := preview.without_imatrix(self.imatrix.entries if self.imatrix else ()):
            has = "has no entry of" if self.imatrix else "is needed for"
            raise QuantizationError(
                f"{self.recipe.name}: an importance matrix {has} {missing[0].name} ({missing[0].after})"
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
                hint="--imatrix auto makes one; the smallest types without one are Q2_K and Q3_K_S",
            )

    def _failure(self, why: str) -> QuantizationError:
        full = "iostream error" in why  # all that a C++ stream says of a failed write
        return QuantizationError(
            f"{self.before.path}: llama.cpp, quantizing to {self.recipe.name}, {why}",
            hint="is the disk full? nothing was kept" if full else "nothing was written",
        )


class _Lines:
    """llama.cpp's log, line by line, as it grows."""

    def __init__(self) -> None:
        self.whole: list[str] = []

    def __call__(self, line: str) -> None:
        if line.endswith("\n"):
            self.whole.append(line)


def _check(before: GgufHeader, recipe: Recipe, options: Options) -> None:
    """Say beforehand, and in a person's words, what llama.cpp would end with in the middle, or ignore.

    Raises:
        QuantizationError: there is nothing to quantize.
        InvalidInput: an option would have no effect.
    """
    if not before.tensors:
        raise QuantizationError(
            f"{before.path}: holds no tensors: it is only a vocabulary",
            hint="give the file that holds the weights",
        )
    if options.overrides and recipe.base in FLOATS:
        raise InvalidInput(
            f"--tensor-type: llama.cpp ignores it where the file is to be {recipe.name}",
            hint="name a quantized type for the file, and F16 for the tensors that shall have it",
        )
    check_overrides(options.overrides, [t.name for t in before.tensors])


def _llama_cpp_version() -> str:
    return importlib.metadata.version("llama-cpp-python")
