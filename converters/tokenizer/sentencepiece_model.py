"""tokenizer.model, SentencePiece's own file → a `Vocabulary`.

The file is a protocol buffer of which a dozen fields matter, so it is read here, in bounds, instead of
through PyPI's sentencepiece: that is a compiled library which would want to be installed for two numbers
and a name per piece. The tests compare with it.

Source: sentencepiece `src/sentencepiece_model.proto`; protobuf.dev "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from converters.tokenizer.added import refuse
from converters.tokenizer.files import SideFiles, read_bytes
from converters.tokenizer.metadata import (
    CONTROL,
    NORMAL,
    SPACE,
    UNUSED,
    USER_DEFINED,
    AddedToken,
    Vocabulary,
)
from converters.tokenizer.pieces import lacks_bytes
from converters.tokenizer.rows import check_ids
from turbopilot.base.errors import CorruptCheckpoint

_BPE = 2  # TrainerSpec.ModelType
_ALGORITHMS = {1: "unigram (the likeliest pieces)", 3: "words", 4: "characters"}
_MAX_PIECES = 1 << 22


@dataclass(slots=True)
class Model:
    """The fields that matter, with the defaults of the .proto file."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score, type."""
    algorithm: int = 1
    suffix_spaces: bool = False
    special_ids: dict[str, int] = field(
        default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    )
    charsmap: bool = False
    dummy_prefix: bool = True
    squeezes_spaces: bool = True
    escapes_spaces: bool = True


def read_sentencepiece(path: Path, side: SideFiles, n_vocab: int) -> Vocabulary:
    """Read a tokenizer.model that holds a BPE.

    Raises:
        CorruptCheckpoint: it is truncated or no SentencePiece model.
        TokenizerMismatch: it does what GGUF cannot express; the message has every reason.
    """
    try:
        model = parse_model(read_bytes(path))
    except (ValueError, IndexError, struct.error) as e:
        raise CorruptCheckpoint(
            f"{path}: not a SentencePiece model, or damaged: {e}", hint="download it again"
        ) from e
    vocab: dict[str, int] = {}
    for row, (text, _, _) in enumerate(model.pieces):
        if vocab.setdefault(text, row) != row:
            raise CorruptCheckpoint(
                f"{path}: pieces {vocab[text]} and {row} are both {text!r}",
                hint="download it again",
            )
    check_ids(path, vocab, n_vocab)
    if problems := _problems(model, vocab):
        refuse(path, problems)
    roles = {role: row for role, row in model.special_ids.items() if 0 <= row < len(model.pieces)}
    types = {row: kind for row, (_, _, kind) in enumerate(model.pieces) if kind != NORMAL}
    inside = [
        AddedToken(text, row, kind == CONTROL)
        for row, (text, _, kind) in enumerate(model.pieces)
        if kind in (CONTROL, USER_DEFINED)
    ]
    return Vocabulary(
        path, "llama", vocab, types, tuple(inside),
        scores={row: score for row, (_, score, _) in enumerate(model.pieces)},
        pre="default", pre_origin="by structure", candidates=("default",),
        space_prefix="every" if model.dummy_prefix and side.config.get("add_prefix_space") is not False else "",
        roles=roles,
    )  # fmt: skip


def _problems(model: Model, vocab: dict[str, int]) -> list[str]:
    problems = []
    if model.algorithm != _BPE:
        name = _ALGORITHMS.get(model.algorithm, f"of type {model.algorithm}")
        problems.append(f"its pieces are chosen by {name}, not merged by score (BPE)")
    if model.charsmap:
        problems.append("it normalises text (precompiled_charsmap)")
    if model.squeezes_spaces:
        problems.append("it drops spaces that follow spaces (remove_extra_whitespaces)")
    if not model.escapes_spaces or model.suffix_spaces:
        problems.append(f"it does not write spaces as {SPACE} before words")
    if reason := lacks_bytes(vocab):
        problems.append(reason)
    if unused := [text for text, _, kind in model.pieces if kind == UNUSED]:
        problems.append(f"its piece {unused[0]!r} is unused, and llama.cpp would use it")
    user = [text for text, _, kind in model.pieces if kind == USER_DEFINED]
    # llama.cpp looks for them before it writes spaces as ▁, SentencePiece afterwards
    if blank := [text for text in user if SPACE in text or " " in text]:
        problems.append(f"its user-defined piece {blank[0]!r} holds a space")
    if user and model.dummy_prefix:
        problems.append(
            f"after the user-defined piece {user[0]!r}, llama.cpp would put a space as before a text"
        )
    return problems


def parse_model(data: bytes) -> Model:
    """Read `ModelProto`: 1 pieces, 2 trainer_spec, 3 normalizer_spec; other fields are passed over.

    Raises:
        ValueError: it is truncated, or no such message.
    """
    model = Model()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            model.pieces.append(_piece(value))
            if len(model.pieces) > _MAX_PIECES:
                raise ValueError(f"more than {_MAX_PIECES:,} pieces")
        elif number == 2 and isinstance(value, bytes):
            _trainer(model, value)
        elif number == 3 and isinstance(value, bytes):
            _normalizer(model, value)
    if not model.pieces:
        raise ValueError("it holds no pieces")
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    """`SentencePiece`: 1 piece, 2 score, 3 type."""
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, float):
            score = value
        elif number == 3 and isinstance(value, int):
            kind = value
    if not 1 <= kind <= 6 or score != score:
        raise ValueError(f"piece {text!r} has type {kind} and score {score}")
    return text, score, kind


def _trainer(model: Model, data: bytes) -> None:
    """`TrainerSpec`: 3 model_type, 24 treat_whitespace_as_suffix, 40 to 43 ids."""
    roles = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value in _fields(data):
        if not isinstance(value, int):
            continue
        if number == 3:
            model.algorithm = value
        elif number == 24:
            model.suffix_spaces = bool(value)
        elif number in roles:
            # an int32 below zero is written as 64 bits
            model.special_ids[roles[number]] = value - (1 << 64) if value >> 63 else value


def _normalizer(model: Model, data: bytes) -> None:
    """`NormalizerSpec`: 2 precompiled_charsmap, 3 dummy prefix, 4 extra whitespaces, 5 escapes."""
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            model.charsmap = bool(value)
        elif number == 3:
            model.dummy_prefix = bool(value)
        elif number == 4:
            model.squeezes_spaces = bool(value)
        elif number == 5:
            model.escapes_spaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of one message: number and value (varint, fixed64 as int, bytes, fixed32 as float)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if size > len(data) - at:
            raise ValueError(f"a field of {size:,} bytes where {len(data) - at:,} are left")
        raw = data[at : at + size]
        at += size
        yield number, struct.unpack("<f", raw)[0] if wire == 5 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("a number of more than ten bytes")
