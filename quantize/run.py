"""The verb: check, start the quantizing process, follow it, put its file in place. Never loads llama.cpp itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from quantize.recipes import Recipe, find_recipe
from quantize.summary import QuantizeReport, summarise
from turbopilot.atomic import check_disk, check_output, replacing
from turbopilot.errors import QuantizationError
from turbopilot.gguf_digest import CERTIFICATE
from turbopilot.gguf_edit import set_metadata
from turbopilot.gguf_file import GgufHeader, read_gguf
from turbopilot.progress import Progress, silent

# "[  12/  49] blk.0.attn_q.weight - [ 256, 256, 1, 1], type = f16, ..." (llama-quant.cpp)
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
_LOG_WARN, _LOG_ERROR = 3, 4  # enum ggml_log_level


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


@dataclass(slots=True)
class _Words:
    """What llama.cpp said: all of it, for errors, and its warnings, for the report."""

    tail: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The most telling words: its errors, or else the last thing it said."""
        said = self.errors or [line for line in self.tail if line.strip()][-3:]
        return " / ".join(line.strip() for line in said) or "it said nothing"


def _run(source: Path, output: Path, recipe: Recipe, threads: int, progress: Progress) -> _Words:
    job = {"source": str(source), "output": str(output), "ftype": recipe.ftype, "threads": threads}
    env = {
        **os.environ,
        "GGML_NO_BACKTRACE": "1",  # where llama.cpp aborts, it would call gdb on itself
        "PYTHONPATH": os.pathsep.join(p for p in [str(Path(__file__).parents[1]), *sys.path] if p),
    }
    words = _Words()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "quantize.llama_quantize"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            _follow(process.stdout, words, progress)
            code = process.wait()
        finally:
            process.kill()  # Ctrl-C lands here: llama.cpp would otherwise work on to the end
            process.wait()
            process.stdin.close()
            process.stdout.close()
        stderr.seek(0)
        last_words = stderr.read().strip()
    if code != 0:
        said = words.reason() if code == 1 and not last_words else last_words or words.reason()
        how = f"was ended by signal {-code}" if code < 0 else "failed"
        full = "iostream error" in said  # all that a C++ stream says of a failed write
        raise QuantizationError(
            f"{source}: llama.cpp {how} quantizing to {recipe.name}: {said[-2000:]}",
            hint="is the disk full? nothing was kept" if full else "nothing was written",
        )
    return words


def _follow(stdout: IO[str], words: _Words, progress: Progress) -> None:
    line = ""
    for record in stdout:
        try:
            level, text = json.loads(record)
        except ValueError:  # not llama.cpp's log: what a dying process or its debugger prints
            words.tail.append(record)
            continue
        if level == _LOG_ERROR:
            words.errors.append(text)
        elif level == _LOG_WARN:
            words.warnings.append(text.strip())
        line += text
        if match := _TENSOR_LINE.match(line.lstrip()):
            progress(int(match[1]), int(match[2]), match[3])
        if line.endswith("\n"):
            words.tail.append(line)
            line = ""
