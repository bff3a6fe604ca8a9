"""Everything short of writing: a checkpoint or an old ggml file is read, planned and known to be convertible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from converters import registry
from converters.checkpoint import Checkpoint
from converters.encode import Array
from converters.hfconfig import HfConfig
from converters.legacy_ggml import open_old
from converters.plan import Plan, PlannedTensor, plan
from converters.plan_text import render
from converters.provenance import Provenance, read_provenance, source_files
from converters.quantized import refuse_quantized
from converters.spec import IntArray
from converters.stream import read_tensor
from converters.tokenizer import GgufTokenizer, read_tokenizer
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.llama.geometry import Geometry, read_geometry

DTYPES = {"f16": "F16", "bf16": "BF16", "f32": "F32", "q8_0": "Q8_0", "auto": "AUTO"}


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What a conversion may be told beside its type.

    Args:
        vocab_only: only the metadata and the tokenizer; the folder needs no weights then.
        split_max_size: bytes of a file at most, 0 for one file. A model that is larger becomes
            `NAME-00001-of-0000N.gguf` and so on, of which llama.cpp is given the first.
        name: `general.name`; the folder's name by default.
        force: overwrite the output, and keep NaN and infinities that are in the weights.
        model_type: of an old ggml file, where it leaves a doubt: one of `converters.MODEL_TYPES`.
        tokenizer: folder with the original's tokenizer, for an old file whose vocabulary has lost bytes.
    """

    vocab_only: bool = False
    split_max_size: int = 0
    name: str = ""
    force: bool = False
    model_type: str = ""
    tokenizer: Path | None = None


DEFAULTS = ConversionOptions()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checkpoint that is known to be convertible."""

    checkpoint: Checkpoint
    plan: Plan
    tokenizer: GgufTokenizer
    files: list[Path]
    provenance: Provenance


@contextmanager
def prepare(
    source: Path, dtype: str = "", options: ConversionOptions = DEFAULTS
) -> Iterator[Prepared]:
    """Read config, headers and tokenizer, and plan.

    Raises:
        InvalidInput, UnsupportedModel, TensorMismatch, TokenizerMismatch, CorruptCheckpoint: see `convert`.
    """
    if dtype and dtype.lower() not in DTYPES:
        raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, DTYPES))
    prepared = _prepare_old if source.is_file() else _prepare_checkpoint
    with prepared(source, dtype.lower(), options) as p:
        yield p


@contextmanager
def _prepare_checkpoint(source: Path, dtype: str, options: ConversionOptions) -> Iterator[Prepared]:
    if options.model_type or options.tokenizer:
        raise InvalidInput(
            f"{source}: is no old ggml file, and says itself what it is",
            hint="leave out --model-type and --tokenizer",
        )
    config = HfConfig.read(source)
    spec = registry.find(config)
    with Checkpoint({}) if options.vocab_only else Checkpoint.open(source) as checkpoint:
        tensors = checkpoint.tensors
        refuse_quantized(config, tensors)
        made = plan(spec, config, tensors, DTYPES[dtype or "f16"], vocab_only=options.vocab_only)
        tokenizer = read_tokenizer(source, spec.pre, made.dims.n_vocab, config.values)
        files = source_files(source, sorted({t.path for t in tensors.values()}))
        yield Prepared(checkpoint, made, tokenizer, files, read_provenance(source))


@contextmanager
def _prepare_old(source: Path, dtype: str, options: ConversionOptions) -> Iterator[Prepared]:
    """A file of the original TurboPilot, whose blocks are kept as they are."""
    if dtype not in ("", "auto"):
        raise InvalidInput(
            f"--dtype {dtype}: an old ggml file is copied, block for block",
            hint="leave --dtype out; for another type quantize the result: turbopilot quantize",
        )
    old = open_old(source, options.model_type, options.tokenizer)
    with old.checkpoint as checkpoint:
        made = plan(old.spec, old.config, checkpoint.tensors, "AUTO", vocab_only=options.vocab_only)
        yield Prepared(checkpoint, made, old.tokenizer, [source], Provenance())


def dry_run(source: Path, options: ConversionOptions = DEFAULTS, *, dtype: str = "") -> str:
    """The plan as text; raises whatever `convert` would before writing."""
    with prepare(source, dtype, options) as p:
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


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """One tensor of a GGUF as it should be: `shape` outermost first, `order` as in `PlannedPart.rows`.

    `read` returns its values, in F32, while the checkpoint is open.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    order: IntArray | None
    read: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """What `convert --dtype f32` would write, for whoever checks a file tensor by tensor."""

    metadata: Mapping[str, Any]
    tensors: tuple[ConvertedTensor, ...]


@contextmanager
def expected(source: Path) -> Iterator[ConvertedModel]:
    """What the GGUF of a checkpoint's folder, or of an old ggml file, should hold."""
    with prepare(source, "" if source.is_file() else "f32") as p:
        architecture = {"general.architecture": p.plan.spec.gguf}
        tensors = tuple(_converted(t, p.checkpoint) for t in p.plan.tensors)
        yield ConvertedModel({**architecture, **p.plan.metadata, **p.tokenizer.metadata()}, tensors)


def _converted(planned: PlannedTensor, checkpoint: Checkpoint) -> ConvertedTensor:
    sources = " + ".join(part.source.name for part in planned.parts) or "zeros"
    order = planned.parts[0].rows if len(planned.parts) == 1 else None
    read = partial(read_tensor, checkpoint, planned)
    return ConvertedTensor(planned.name, planned.shape, sources, order, read)
