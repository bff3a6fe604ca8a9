"""Description of a GGUF from its header alone.

Any GGUF can be described, even if llama.cpp could not run it: values that are absent or have the wrong type are None
or empty. (`check` rejects files that llama.cpp must not load.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from turbopilot.formats.gguf.certificate import Certificate, read
from turbopilot.formats.gguf.check_adapter import ALPHA_KEY, B_SUFFIX, is_adapter
from turbopilot.formats.gguf.cursor import Value
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.formats.gguf.metadata import PerLayer, Quantized, TypedMetadata, read_quantized
from turbopilot.formats.gguf.split import siblings
from turbopilot.formats.tensor_summary import TensorLine, TypeShare, by_type

_TOKEN_ID = re.compile(r"tokenizer\.ggml\.(?P<role>\w+)_token_id")
_UNUSED = 5  # llama.cpp's LLAMA_TOKEN_TYPE_UNUSED
_ROLES = {"unknown": "unk", "padding": "pad", "seperator": "sep"}  # "seperator" is gguf's spelling


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of the network; a list if layers differ, None if unknown."""

    n_layer: int | None
    n_embd: int | None
    n_head: PerLayer
    n_head_kv: PerLayer
    n_inner: PerLayer
    n_ctx: int | None
    n_vocab: int | None
    rotary_dim: int | None
    rope_theta: float | None
    rope_scaling: str
    rope_factor: float | None


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """Token with a role, such as "bos"; `text` is None if the id is outside the vocabulary."""

    role: str
    id: int
    text: str | None


@dataclass(frozen=True, slots=True)
class TokenizerLine:
    """Description of the tokenizer."""

    model: str  # "gpt2", "llama" …; "" if the file has none
    pre: str  # llama.cpp's name of the pre-tokenizer
    pre_origin: str  # how our converter chose it (text); "" in files of other converters
    n_tokens: int  # rows of the vocabulary
    n_used: int  # rows that are not marked unused
    special: tuple[SpecialToken, ...]  # tokens with a role, except those in `fim`
    fim: tuple[SpecialToken, ...]  # tokens for fill-in-the-middle
    has_fim: bool  # whether there are tokens for prefix, suffix and middle
    add_bos: bool | None  # None if the file leaves it to llama.cpp
    chat_templates: tuple[str, ...]  # names; "default" is the one used by default
    fim_layout: str = (
        ""  # layout of prompts by default, which `app.inspection` fills in; "" if there is none
    )


@dataclass(frozen=True, slots=True)
class SourceFile:
    """File of the checkpoint that the GGUF was converted from."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of the file: license, repository and source files; "" if unknown."""

    license: str
    repository: str
    revision: str
    base_models: tuple[str, ...]
    architecture: str
    files: tuple[SourceFile, ...]
    turbopilot: str


@dataclass(frozen=True, slots=True)
class FilePart:
    """File of a split model."""

    file: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class AdapterLine:
    """Description of an adapter, which changes matrices of a model."""

    type: str  # "lora"
    alpha: float | None
    ranks: tuple[int, ...]  # the different ones, ascending
    n_matrices: int  # that it changes


@dataclass(frozen=True, slots=True)
class GgufDescription:
    """Description of a GGUF; sizes are in bytes. `adapter` is None if the file contains a model."""

    kind: ClassVar[str] = "gguf"
    path: Path
    version: int
    architecture: str
    name: str
    shape: Shape
    n_weights: int
    n_bytes: int
    bits_per_weight: float
    main_type: str
    types: tuple[TypeShare, ...]
    tokenizer: TokenizerLine
    origin: Origin
    adapter: AdapterLine | None
    quantized: Quantized | None
    certificate: Certificate | None
    parts: tuple[FilePart, ...]
    tensors: tuple[TensorLine, ...]
    metadata: Mapping[str, Value]


def describe_gguf(path: Path) -> GgufDescription:
    """Describe a GGUF, with all parts of a split model. Raise the same errors as `read_gguf`."""
    header = read_gguf(path)
    lines = tuple(
        TensorLine(t.name, t.shape[::-1], t.type_name, t.n_bytes, t.offset, t.path.name)
        for t in header.tensors
    )
    said = TypedMetadata(header.metadata)
    return GgufDescription(
        path=path,
        version=header.version,
        architecture=header.architecture,
        name=said.text("general.name"),
        shape=_shape(said, header),
        n_weights=header.n_weights,
        n_bytes=header.file_size,
        bits_per_weight=header.bits_per_weight,
        main_type=header.main_type(),
        types=by_type((t.type_name, t.n_weights, t.n_bytes) for t in header.tensors),
        tokenizer=_tokenizer(said),
        origin=_origin(said),
        adapter=_adapter(said, header) if is_adapter(header) else None,
        quantized=read_quantized(header.metadata),
        certificate=read(header),
        parts=_parts(header),
        tensors=lines,
        metadata=header.metadata,
    )


def _shape(said: TypedMetadata, header: GgufHeader) -> Shape:
    arch = header.architecture
    n_vocab = said.get(f"{arch}.vocab_size", int) or len(said.many("tokenizer.ggml.tokens", str))
    return Shape(
        n_layer=said.get(f"{arch}.block_count", int),
        n_embd=said.get(f"{arch}.embedding_length", int),
        n_head=said.per_layer(f"{arch}.attention.head_count"),
        n_head_kv=said.per_layer(f"{arch}.attention.head_count_kv"),
        n_inner=said.per_layer(f"{arch}.feed_forward_length"),
        n_ctx=said.get(f"{arch}.context_length", int),
        n_vocab=n_vocab or None,
        rotary_dim=said.get(f"{arch}.rope.dimension_count", int),
        rope_theta=said.number(f"{arch}.rope.freq_base"),
        rope_scaling=said.text(f"{arch}.rope.scaling.type"),
        rope_factor=said.number(f"{arch}.rope.scaling.factor"),
    )


def _tokenizer(said: TypedMetadata) -> TokenizerLine:
    tokens = said.many("tokenizer.ggml.tokens", str)
    unused = said.many("tokenizer.ggml.token_type", int).count(_UNUSED)
    found: list[SpecialToken] = []
    for key in said.values:
        named, row = _TOKEN_ID.fullmatch(key), said.get(key, int)
        if named and row is not None:
            text = tokens[row] if 0 <= row < len(tokens) else None
            found.append(SpecialToken(_ROLES.get(named["role"], named["role"]), row, text))
    fim = tuple(t for t in found if t.role.startswith("fim_"))
    default = ["default"] if said.text("tokenizer.chat_template") else []
    return TokenizerLine(
        model=said.text("tokenizer.ggml.model"),
        pre=said.text("tokenizer.ggml.pre"),
        pre_origin=said.text("turbopilot.tokenizer.pre_origin"),
        n_tokens=len(tokens),
        n_used=max(0, len(tokens) - unused),
        special=tuple(t for t in found if t not in fim),
        fim=fim,
        has_fim={"fim_pre", "fim_suf", "fim_mid"} <= {t.role for t in fim},
        add_bos=said.get("tokenizer.ggml.add_bos_token", bool),
        chat_templates=(*default, *said.many("tokenizer.chat_templates", str)),
    )


def _origin(said: TypedMetadata) -> Origin:
    bases = (
        said.text(f"general.base_model.{i}.repo_url") or said.text(f"general.base_model.{i}.name")
        for i in range(min(said.get("general.base_model.count", int) or 0, len(said.values)))
    )
    names, digests = (said.many(f"turbopilot.source.{key}", str) for key in ("files", "sha256"))
    return Origin(
        license=said.text("general.license.name") or said.text("general.license"),
        repository=said.text("general.source.repo_url") or said.text("general.repo_url"),
        revision=said.text("turbopilot.source.revision"),
        base_models=tuple(base for base in bases if base),
        architecture=said.text("turbopilot.source.architecture"),
        files=tuple(SourceFile(*pair) for pair in zip(names, digests, strict=False)),
        turbopilot=said.text("turbopilot.version"),
    )


def _adapter(said: TypedMetadata, header: GgufHeader) -> AdapterLine:
    b = [t for t in header.tensors if t.name.endswith(B_SUFFIX)]
    ranks = tuple(sorted({t.shape[0] for t in b}))
    return AdapterLine(said.text("adapter.type"), said.number(ALPHA_KEY), ranks, len(b))


def _parts(header: GgufHeader) -> tuple[FilePart, ...]:
    named = siblings(header.path) if header.n_files > 1 else None
    held = Counter(t.path for t in header.tensors)
    return tuple(FilePart(p.name, held[p], p.stat().st_size) for p in (named[1] if named else ()))
