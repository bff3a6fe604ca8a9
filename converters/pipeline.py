"""The verb: read a config, plan, check, write. Knows no format; each step is a module of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converters import registry
from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.plan import Plan, plan, render
from converters.tokenizer import UNUSED, GgufTokenizer, read_tokenizer
from turbopilot.atomic import check_disk, check_output, replacing
from turbopilot.errors import InvalidInput, did_you_mean
from turbopilot.progress import Progress, silent
from turbopilot.version import __version__

DTYPES = {"f32": "F32", "f16": "F16"}
HEADER_BYTES_PER_ROW = 64  # of the vocabulary: its text, its type and a merge; more than any takes


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written."""

    path: Path
    architecture: str
    gguf_architecture: str
    dtype: str
    n_tensors: int
    n_weights: int
    n_bytes: int
    n_dropped: int
    n_tokens: int
    pre_tokenizer: str
    has_fim: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint that is known to be convertible."""

    config: HfConfig
    checkpoint: Checkpoint
    plan: Plan
    tokenizer: GgufTokenizer


@contextmanager
def prepare(source: Path, dtype: str) -> Iterator[Prepared]:
    """Everything short of writing: read config, headers and tokenizer, and plan."""
    if dtype.lower() not in DTYPES:
        raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, DTYPES))
    config = HfConfig.read(source)
    spec = registry.find(config.architectures, config.where)
    with Checkpoint.open(source) as checkpoint:
        the_plan = plan(spec, config, checkpoint.tensors, DTYPES[dtype.lower()])
        tokenizer = read_tokenizer(source, spec.tokenizer, the_plan.dims.n_vocab, config.values)
        yield Prepared(config, checkpoint, the_plan, tokenizer)


def dry_run(source: Path, *, dtype: str = "f16") -> str:
    """The plan as text; raises whatever `convert` would before writing."""
    with prepare(source, dtype) as p:
        return render(p.plan)


def convert(
    source: Path,
    output: Path,
    *,
    dtype: str = "f16",
    force: bool = False,
    name: str = "",
    progress: Progress = silent,
) -> ConversionReport:
    """Convert a checkpoint's folder to one GGUF file. Needs neither torch nor transformers.

    Args:
        source: folder with config.json, tokenizer.json and safetensors.
        output: the file to write; it appears whole or not at all.
        dtype: "f32" or "f16", of the matrices; vectors are F32 always.
        force: overwrite `output`, and keep NaN and infinities that are in the weights.
        name: `general.name`; the folder's name by default.
        progress: called with bytes done, bytes in all and the tensor's name.

    Raises:
        InvalidInput: a path or the dtype cannot be used.
        UnsupportedModel: the family or a config value is not one that can be converted faithfully.
        TensorMismatch, TokenizerMismatch, CorruptCheckpoint: the checkpoint is not what it claims.
        NotEnoughDisk: the output would not fit.
    """
    began = time.monotonic()
    check_output(output, force=force)
    with prepare(source, dtype) as p:
        check_disk(output.parent, p.plan.n_bytes + HEADER_BYTES_PER_ROW * p.plan.dims.n_vocab)
        from converters.writer import (
            write_gguf,
        )  # gguf is imported only when there is something to write

        general = {
            "name": name or source.resolve().name,
            "source.architecture": p.plan.spec.architecture,
        }
        general["converted_by"] = f"turbopilot {__version__}"
        with replacing(output) as part:
            write_gguf(
                part, p.plan, p.tokenizer, general, p.checkpoint,
                dtype=DTYPES[dtype.lower()], keep_nonfinite=force, progress=progress,
            )  # fmt: skip
    return ConversionReport(
        path=output,
        architecture=p.plan.spec.architecture,
        gguf_architecture=p.plan.spec.gguf,
        dtype=DTYPES[dtype.lower()],
        n_tensors=len(p.plan.tensors),
        n_weights=sum(t.n_weights for t in p.plan.tensors),
        n_bytes=output.stat().st_size,
        n_dropped=len(p.plan.dropped),
        n_tokens=sum(kind != UNUSED for kind in p.tokenizer.types),
        pre_tokenizer=p.tokenizer.pre,
        has_fim=p.tokenizer.has_fim,
        seconds=time.monotonic() - began,
    )
