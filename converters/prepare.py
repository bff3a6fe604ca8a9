"""Everything short of writing: a checkpoint or an old file is read, planned and known to be convertible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converters import registry
from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.legacy_ggml import open_old
from converters.plan import Plan, plan
from converters.plan_text import render
from converters.provenance import Provenance, read_provenance, source_files
from converters.quantized import refuse_quantized
from converters.tokenizer import GgufTokenizer, read_tokenizer
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.llama.geometry import Geometry, read_geometry

DTYPES = {"f16": "F16", "bf16": "BF16", "f32": "F32", "q8_0": "Q8_0", "auto": "AUTO"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint that is known to be convertible."""

    config: HfConfig
    checkpoint: Checkpoint
    plan: Plan
    tokenizer: GgufTokenizer
    files: list[Path]
    provenance: Provenance


@contextmanager
def prepare(
    source: Path,
    dtype: str = "",
    *,
    vocab_only: bool = False,
    model_type: str = "",
    tokenizer: Path | None = None,
) -> Iterator[Prepared]:
    """Everything short of writing: read config, headers and tokenizer, and plan.

    Raises:
        InvalidInput, UnsupportedModel, TensorMismatch, TokenizerMismatch, CorruptCheckpoint: see `convert`.
    """
    if dtype and dtype.lower() not in DTYPES:
        raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, DTYPES))
    if source.is_file():
        with _prepare_old(source, dtype, vocab_only, model_type, tokenizer) as prepared:
            yield prepared
        return
    if model_type or tokenizer:
        raise InvalidInput(
            f"{source}: is no old ggml file, and says itself what it is",
            hint="leave out --model-type and --tokenizer",
        )
    config = HfConfig.read(source)
    spec = registry.find(config)
    with Checkpoint.nothing(source) if vocab_only else Checkpoint.open(source) as checkpoint:
        refuse_quantized(config, checkpoint.tensors)
        the_plan = plan(
            spec,
            config,
            checkpoint.tensors,
            DTYPES[dtype.lower() or "f16"],
            vocab_only=vocab_only,
        )
        words = read_tokenizer(source, spec.tokenizer, the_plan.dims.n_vocab, config.values)
        files = source_files(source, sorted({t.path for t in checkpoint.tensors.values()}))
        yield Prepared(config, checkpoint, the_plan, words, files, read_provenance(source))


@contextmanager
def _prepare_old(
    source: Path, dtype: str, vocab_only: bool, model_type: str, tokenizer: Path | None
) -> Iterator[Prepared]:
    """The same for a ggml file of the original TurboPilot, whose blocks are kept as they are."""
    if dtype.lower() not in ("", "auto"):
        raise InvalidInput(
            f"--dtype {dtype}: an old ggml file is copied, block for block",
            hint="leave --dtype out; for another type quantize the result: turbopilot quantize",
        )
    old = open_old(source, model_type, tokenizer)
    with old.checkpoint as checkpoint:
        the_plan = plan(old.spec, old.config, checkpoint.tensors, "AUTO", vocab_only=vocab_only)
        yield Prepared(old.config, checkpoint, the_plan, old.tokenizer, [source], Provenance())


def dry_run(
    source: Path,
    *,
    dtype: str = "",
    vocab_only: bool = False,
    model_type: str = "",
    tokenizer: Path | None = None,
) -> str:
    """The plan as text; raises whatever `convert` would before writing."""
    with prepare(
        source, dtype, vocab_only=vocab_only, model_type=model_type, tokenizer=tokenizer
    ) as p:
        return render(p.plan)


def planned_geometry(source: Path) -> tuple[Geometry, int, int]:
    """Return the geometry, the number of weights and the context of a checkpoint's GGUF; reads headers only.

    Raises:
        TurboPilotError: whatever `convert` would before writing.
    """
    with prepare(source) as p:
        shapes = {t.name: t.shape[::-1] for t in p.plan.tensors}
        n_weights = sum(t.n_weights for t in p.plan.tensors)
        return read_geometry(p.plan.keys, shapes), n_weights, p.plan.dims.n_ctx
