"""Description of a checkpoint from its config and headers, and whether it can be converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from converters import registry
from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.plan import plan
from converters.provenance import SIDE_FILES, read_provenance
from converters.quantized import quantized_by, refuse_quantized
from converters.safetensors_file import read_header, read_metadata
from converters.source_tensor import SourceTensor
from converters.spec import Dims
from converters.torch_file import read_pickle
from turbopilot.base.errors import InvalidInput, TurboPilotError, UnsupportedModel
from turbopilot.formats.gguf.description import FilePart, Shape
from turbopilot.formats.tensor_summary import TensorLine, TypeShare, by_type

_CONFIGS = ("config.json", "generation_config.json")

# Config fields for the geometry of unknown families; the first that is present is used.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "n_layer": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "n_embd": ("hidden_size", "n_embd", "d_model"),
    "n_head": ("num_attention_heads", "n_head", "n_heads"),
    "n_head_kv": ("num_key_value_heads", "n_head_kv"),
    "n_inner": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "n_ctx": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "n_vocab": ("vocab_size",),
}


@dataclass(frozen=True, slots=True)
class CheckpointDescription:
    """Description of a checkpoint folder; sizes are in bytes."""

    kind: ClassVar[str] = "checkpoint"

    path: Path
    architectures: tuple[str, ...]  # as config.json names them
    model_type: str
    convertible: bool  # config and tensors are of a supported family; the tokenizer is not checked
    gguf_architecture: str  # GGUF's name of the architecture; "" if the family is unknown
    reason: str  # why it does not convert; "" if it does
    hint: str  # how to solve that
    quantized: str  # quantization method, and how it was recognized; "" if not quantized
    shape: Shape
    n_weights: int  # in the tensors that are converted
    n_bytes: int
    types: tuple[TypeShare, ...]
    dropped: tuple[str, ...]  # tensors that are not converted
    files: tuple[FilePart, ...]
    tokenizer_files: tuple[str, ...]  # those that exist
    license: str  # from the model card, as are the next three; "" if unknown
    repository: str
    revision: str
    base_models: tuple[str, ...]
    tensors: tuple[TensorLine, ...]
    metadata: Mapping[str, Any]  # config.json


@dataclass(frozen=True, slots=True)
class WeightsDescription:
    """Description of a single weight file, "safetensors" or "pytorch", without its checkpoint."""

    path: Path
    format: str
    n_weights: int
    n_bytes: int
    types: tuple[TypeShare, ...]
    tensors: tuple[TensorLine, ...]
    metadata: Mapping[str, str]

    @property
    def kind(self) -> str:
        """Format of the file."""
        return self.format


def describe_checkpoint(folder: Path) -> CheckpointDescription:
    """Return a checkpoint's description, from config.json, the model card and the headers of the weights."""
    config = HfConfig.read(folder)
    refusal: TurboPilotError | None = None
    gguf, shape, dropped = "", _shape_by_name(config), frozenset[str]()
    tensors: Mapping[str, SourceTensor] = {}
    try:
        with Checkpoint.open(folder) as checkpoint:
            tensors = checkpoint.tensors
    except InvalidInput as e:  # weights are missing or unreadable; describe the rest
        refusal = e
    try:
        spec = registry.find(config)
        gguf, shape = spec.gguf, _shape(spec.dims(config), config)
        refuse_quantized(config, tensors)
        planned = plan(spec, config, tensors, "AUTO", vocab_only=not tensors)
        dropped = frozenset(planned.dropped)
    except UnsupportedModel as e:
        refusal = e
    except TurboPilotError as e:
        refusal = refusal or e
    method, model_type = quantized_by(config, tensors), config.values.get("model_type")
    origin = read_provenance(folder)
    weights = [t for n, t in tensors.items() if n not in dropped]
    held = Counter(t.path for t in tensors.values())
    return CheckpointDescription(
        path=folder,
        architectures=tuple(config.architectures),
        model_type=model_type if isinstance(model_type, str) else "",
        convertible=refusal is None,
        gguf_architecture=gguf,
        reason=str(refusal or ""),
        hint=refusal.hint if refusal else "",
        quantized=f"{method[0]} ({method[2]})" if method else "",
        shape=shape,
        n_weights=sum(prod(t.shape) for t in weights),
        n_bytes=sum(t.n_bytes for t in tensors.values()),
        types=_by_type(tensors.values()),
        dropped=tuple(sorted(dropped)),
        files=tuple(FilePart(p.name, held[p], p.stat().st_size) for p in sorted(held)),
        tokenizer_files=tuple(
            name for name in SIDE_FILES if name not in _CONFIGS and (folder / name).is_file()
        ),
        license=origin.license_name or origin.license,
        repository=origin.repository,
        revision=origin.revision,
        base_models=origin.base_models,
        tensors=_lines(tensors.values()),
        metadata=config.values,
    )


def describe_weights(path: Path, kind: str) -> WeightsDescription:
    """Return a weight file's description, from its header; `kind` is "safetensors" or "pytorch"."""
    tensors = (read_header(path) if kind == "safetensors" else read_pickle(path)).values()
    return WeightsDescription(
        path=path,
        format=kind,
        n_weights=sum(prod(t.shape) for t in tensors),
        n_bytes=path.stat().st_size,
        types=_by_type(tensors),
        tensors=_lines(tensors),
        metadata=read_metadata(path) if kind == "safetensors" else {},
    )


def _by_type(tensors: Iterable[SourceTensor]) -> tuple[TypeShare, ...]:
    return by_type((t.dtype, prod(t.shape), t.n_bytes) for t in tensors)


def _lines(tensors: Iterable[SourceTensor]) -> tuple[TensorLine, ...]:
    return tuple(
        TensorLine(t.name, t.shape, t.dtype, t.n_bytes, t.offset, t.path.name) for t in tensors
    )


def _shape(d: Dims, config: HfConfig) -> Shape:
    # a copy, whose problems do not count: the family itself reads the rope settings that it supports
    rope = HfConfig(config.values).rope() if d.rotary_dim else None
    return Shape(
        d.n_layer, d.n_embd, d.n_head, d.n_head_kv, d.n_inner, d.n_ctx, d.n_vocab, d.rotary_dim or None,
        rope.theta if rope else None, rope.kind if rope and rope.kind != "default" else "",
        rope.factor if rope and rope.kind != "default" else None,
    )  # fmt: skip


def _shape_by_name(config: HfConfig) -> Shape:
    """Return the geometry of an unknown family, as far as its config uses the usual names."""
    found: dict[str, int | None] = {}
    for field, names in _NAMES.items():
        values = (config.values.get(name) for name in names)
        found[field] = next((v for v in values if type(v) is int), None)
    return Shape(**found, rotary_dim=None, rope_theta=None, rope_scaling="", rope_factor=None)
