"""Preparation of a conversion: read and plan a checkpoint or an old ggml file, without writing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from converters import registry
from converters.checkpoint import Checkpoint
from converters.encode import Array
from converters.hfconfig import HfConfig
from converters.legacy_ggml import open_old
from converters.plan import plan
from converters.plan_text import MAX_PARTS, render
from converters.planned import Plan, PlannedTensor
from converters.provenance import Provenance, read_provenance, source_files
from converters.quantized import refuse_quantized
from converters.spec import IntArray
from converters.stream import read_tensor
from converters.tokenizer import GgufTokenizer, read_tokenizer
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel, did_you_mean
from turbopilot.llama.geometry import Geometry, read_geometry

DTYPES = {"f16": "F16", "bf16": "BF16", "f32": "F32", "q8_0": "Q8_0", "auto": "AUTO"}


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Options of a conversion, except the type of the weights.

    A model larger than `split_max_size` is split into `NAME-00001-of-0000N.gguf` and so on; programs open the first
    file.
    """

    vocab_only: bool = False  # metadata and tokenizer only; the folder needs no weights
    split_max_size: int = 0  # maximum size of a file in bytes; 0 for a single file
    name: str = ""  # `general.name`; default: the folder's name
    force: bool = False  # overwrite the output, and keep NaN and infinities in the weights
    rehash: bool = False  # hash the files of a Hub cache too, instead of trusting their names
    model_type: str = ""  # one of `converters.MODEL_TYPES`, for an ambiguous old ggml file
    tokenizer: Path | None = None  # folder of the original tokenizer, for an old ggml file


DEFAULTS = ConversionOptions()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A planned conversion, with the open checkpoint and its tokenizer."""

    checkpoint: Checkpoint
    plan: Plan
    tokenizer: GgufTokenizer
    files: list[Path]
    provenance: Provenance


@contextmanager
def prepare(
    source: Path, dtype: str = "", options: ConversionOptions = DEFAULTS
) -> Iterator[Prepared]:
    """Yield the plan and the open checkpoint. Raises the same errors as `convert`."""
    if dtype and dtype.lower() not in DTYPES:
        raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, DTYPES))
    prepared = _prepare_old if source.is_file() else _prepare_checkpoint
    with ExitStack() as stack:
        try:
            p = stack.enter_context(prepared(source, dtype.lower(), options))
        except RecursionError as e:  # from JSON that is less deep than its parser allows
            raise CorruptCheckpoint(
                f"{source}: a JSON file is nested too deeply", hint="download it again"
            ) from e
        yield p


@contextmanager
def _prepare_checkpoint(source: Path, dtype: str, options: ConversionOptions) -> Iterator[Prepared]:
    if options.model_type or options.tokenizer:
        raise InvalidInput(
            f"{source}: --model-type and --tokenizer apply only to old ggml files",
            hint="leave them out",
        )
    config = HfConfig.read(source)
    spec = registry.find(config)
    with Checkpoint({}) if options.vocab_only else Checkpoint.open(source) as checkpoint:
        tensors = checkpoint.tensors
        refuse_quantized(config, tensors)
        made = plan(spec, config, tensors, DTYPES[dtype or "f16"], vocab_only=options.vocab_only)
        tokenizer = read_tokenizer(source, spec.pre, made.dims.n_vocab, config.values)
        tokenizer = replace(tokenizer, fim_order=fim_order(config))
        files = source_files(source, sorted({t.path for t in tensors.values()}))
        yield Prepared(checkpoint, made, tokenizer, files, read_provenance(source))


def fim_order(config: HfConfig) -> str:
    """Return the order of prefix and suffix that a checkpoint names in `fim_order`; "" if it names none.

    The key is TurboPilot's own: the bundled model has it.

    Raises:
        UnsupportedModel: the value is unknown.
    """
    order = config.values.get("fim_order", "")
    if order not in ("", "psm", "spm"):
        raise UnsupportedModel(
            f"{config.where}: fim_order is {order!r}", hint="remove it, or write psm or spm"
        )
    return str(order)


@contextmanager
def _prepare_old(source: Path, dtype: str, options: ConversionOptions) -> Iterator[Prepared]:
    """Prepare a model file of the original TurboPilot, whose blocks are copied unchanged."""
    if dtype not in ("", "auto"):
        raise InvalidInput(
            f"--dtype {dtype}: an old ggml file is copied block for block",
            hint="leave out --dtype; for another type, quantize the result: turbopilot quantize",
        )
    old = open_old(source, options.model_type, options.tokenizer)
    with old.checkpoint as checkpoint:
        made = plan(old.spec, old.config, checkpoint.tensors, "AUTO", vocab_only=options.vocab_only)
        yield Prepared(checkpoint, made, old.tokenizer, [source], Provenance())


def dry_run(source: Path, options: ConversionOptions = DEFAULTS, *, dtype: str = "") -> str:
    """Return the plan as text. Raises the same errors as `convert`."""
    with prepare(source, dtype, options) as p:
        return render(p.plan)


def planned_geometry(source: Path) -> tuple[Geometry, int, int]:
    """Return the geometry, number of weights and context length of a checkpoint's GGUF, from headers alone.

    Raises the same errors as `convert`.
    """
    with prepare(source) as p:
        shapes = {t.name: t.shape[::-1] for t in p.plan.tensors}
        return read_geometry(p.plan.keys, shapes), p.plan.n_weights, p.plan.dims.n_ctx


@dataclass(frozen=True, slots=True)
class ConvertedTensor:
    """Expected content of one GGUF tensor."""

    name: str
    shape: tuple[int, ...]  # outermost first
    source: str
    order: IntArray | None  # as in `PlannedPart.rows`
    read: Callable[[], Array]  # returns the values in F32; works while the checkpoint is open


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """Content of the GGUF that `convert --dtype f32` would write, to check a GGUF tensor by tensor."""

    metadata: Mapping[str, Any]
    tensors: tuple[ConvertedTensor, ...]


@contextmanager
def expected(source: Path) -> Iterator[ConvertedModel]:
    """Yield the expected content of the GGUF of a checkpoint folder or an old ggml file."""
    with prepare(source, "" if source.is_file() else "f32") as p:
        architecture = {"general.architecture": p.plan.spec.gguf}
        tensors = tuple(_converted(t, p.checkpoint) for t in p.plan.tensors)
        yield ConvertedModel({**architecture, **p.plan.metadata, **p.tokenizer.metadata()}, tensors)


def _converted(planned: PlannedTensor, checkpoint: Checkpoint) -> ConvertedTensor:
    names = [part.source.name + part.formula for part in planned.parts]
    listed = names if len(names) <= MAX_PARTS else [names[0], "…", names[-1]]
    sources = " + ".join(listed) or "zeros"
    order = planned.parts[0].rows if len(planned.parts) == 1 else None
    read = partial(read_tensor, checkpoint, planned)
    return ConvertedTensor(planned.name, planned.shape, sources, order, read)
