"""The verb: check, start the quantizing process, follow it, put its file in place. Never loads llama.cpp itself."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from quantize.recipes import Recipe, find_recipe
from quantize.summary import QuantizeReport, summarise
from turbopilot.atomic import check_disk, check_output, replacing
from turbopilot.errors import QuantizationError
from turbopilot.gguf_digest import CERTIFICATE
from turbopilot.gguf_edit import set_metadata
from turbopilot.gguf_file import GgufHeader, read_gguf
from turbopilot.llama_child import Words, run_child
from turbopilot.progress import Progress, silent

# "[  12/  49] blk.0.attn_q.weight - [ 256, 256, 1, 1], type = f16, ..." (llama-quant.cpp)
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")


def quantize(
    source: Path,
    output: Path,
    type_name: str,
    *,
    force: bool = False,
    threads: int = 0,
    progress: Progress = silent,
) -> QuantizeReport:
    """Quantize a GGUF file with llama.cpp.

    Args:
        source: an F32, F16 or BF16 GGUF; llama.cpp refuses others, which would lose twice.
        output: the file to write; it appears whole or not at all.
        type_name: a name of `recipes.RECIPES`, in any case.
        force: overwrite `output`.
        threads: 0 means all cores.
        progress: called with tensors done, tensors in all and the tensor's name.

    Raises:
        InvalidInput: a path or the type cannot be used.
        CorruptModel: `source` is not a usable GGUF.
        QuantizationError: llama.cpp failed; the message is its own.
        NotEnoughDisk: the output would not fit.
    """
    began = time.monotonic()
    recipe = find_recipe(type_name)
    before = read_gguf(source)
    check_output(output, force=force, inputs=(source,))
    _refuse_hopeless(before, recipe)
    check_disk(
        output.parent,
        int(before.n_weights * recipe.bits / 8) + before.file_size - before.tensor_bytes,
    )
    with replacing(output) as part:
        words = _run(source, part, recipe, threads or os.cpu_count() or 1, progress)
        # llama.cpp copies all metadata; what the source was verified to be, its quantized file is not.
        if any(key.startswith(CERTIFICATE) for key in before.metadata):
            set_metadata(part, remove=CERTIFICATE)
    after = read_gguf(output)
    return summarise(before, after, recipe.name, tuple(words.warnings), time.monotonic() - began)


def _refuse_hopeless(before: GgufHeader, recipe: Recipe) -> None:
    """Say beforehand, and in a person's words, what llama.cpp would end with in the middle."""
    if not before.tensors:
        raise QuantizationError(
            f"{before.path}: holds no tensors: it is only a vocabulary",
            hint="give the file that holds the weights",
        )
    if recipe.needs_imatrix:
        raise QuantizationError(
            f"{recipe.name} needs an importance matrix, which turbopilot cannot make yet",
            hint="the smallest types without one are Q2_K and Q3_K_S",
        )
    if (main_type := before.main_type()) not in ("F32", "F16", "BF16"):
        raise QuantizationError(
            f"{before.path}: is in {main_type} already; quantizing it again would lose twice",
            hint="start from the F16 or F32 file that turbopilot convert wrote",
        )


def _run(source: Path, output: Path, recipe: Recipe, threads: int, progress: Progress) -> Words:
    job = {"source": str(source), "output": str(output), "ftype": recipe.ftype, "threads": threads}

    def hear_line(line: str) -> None:
        if match := _TENSOR_LINE.match(line.lstrip()):
            progress(int(match[1]), int(match[2]), match[3])

    ended = run_child("quantize.llama_quantize", job, hear_line=hear_line)
    if ended.code != 0:
        full = "iostream error" in ended.why  # all that a C++ stream says of a failed write
        raise QuantizationError(
            f"{source}: llama.cpp, quantizing to {recipe.name}, {ended.why}",
            hint="is the disk full? nothing was kept" if full else "nothing was written",
        )
    return ended.words
