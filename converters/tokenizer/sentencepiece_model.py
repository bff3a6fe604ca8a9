"""Reader for tokenizer.model, SentencePiece's file format.

Only a dozen fields of this protocol buffer are needed, so it is read without the sentencepiece package, a compiled
library; the tests compare the results with it.

Source: sentencepiece `src/sentencepiece_model.proto`; protobuf.dev "Encoding".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from converters.tokenizer.added import refuse
from converters.tokenizer.files import SideFiles, corrupt, read_bytes
from converters.tokenizer.metadata import (
    CONTROL,
    NORMAL,
    SPACE,
    UNUSED,
    USER_DEFINED,
    AddedToken,
    Vocabulary,
    check_ids,
)
from converters.tokenizer.pieces import lacks_bytes
from turbopilot.base.quoting import quoted

T = TypeVar("T", int, float, bytes)
Value: TypeAlias = "int | float | bytes"

_BPE = 2  # TrainerSpec.ModelType
_MAX_FIELDS = 1 << 22  # the largest published vocabulary has 262,144 pieces
_ALGORITHMS = {1: "unigram", 3: "word", 4: "char"}


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Fields of a SentencePiece model that a conversion needs; each of `pieces` is (text, score, type)."""

    pieces: list[tuple[str, float, int]]
    algorithm: int
    suffix_spaces: bool
    special_ids: dict[str, int]
    charsmap: bool
    dummy_prefix: bool
    squeezes_spaces: bool
    escapes_spaces: bool


def read_sentencepiece(path: Path, side: SideFiles, n_vocab: int) -> Vocabulary:
    """Read a tokenizer.model that contains a BPE."""
    try:
        model = parse_model(read_bytes(path))
    except (ValueError, IndexError, struct.error) as e:
        raise corrupt(path, f"not a SentencePiece model, or damaged: {e}") from e
    vocab: dict[str, int] = {}
    for row, (text, _, _) in enumerate(model.pieces):
        if vocab.setdefault(text, row) != row:
            raise corrupt(path, f"pieces {vocab[text]} and {row} are both {quoted(text)}")
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


def _problems(model: SentencePieceModel, vocab: dict[str, int]) -> list[str]:
    problems = []
    if model.algorithm != _BPE:
        name = _ALGORITHMS.get(model.algorithm, f"type {model.algorithm}")
        problems.append(f"its model type is {name}, not BPE")
    if model.charsmap:
        problems.append("it normalises text (precompiled_charsmap)")
    if model.squeezes_spaces:
        problems.append("it drops repeated spaces (remove_extra_whitespaces)")
    if not model.escapes_spaces or model.suffix_spaces:
        problems.append(f"it does not replace spaces by {SPACE} before words")
    if reason := lacks_bytes(vocab):
        problems.append(reason)
    if unused := [text for text, _, kind in model.pieces if kind == UNUSED]:
        problems.append(
            f"its piece {quoted(unused[0])} is marked unused, but llama.cpp would use it"
        )
    user = [text for text, _, kind in model.pieces if kind == USER_DEFINED]
    # llama.cpp searches for them before it replaces spaces by ▁, SentencePiece afterwards
    if blank := [text for text in user if SPACE in text or " " in text]:
        problems.append(f"its user-defined piece {quoted(blank[0])} contains a space")
    if user and model.dummy_prefix:
        problems.append(
            f"after the user-defined piece {quoted(user[0])}, llama.cpp would add a space"
        )
    return problems


def parse_model(data: bytes) -> SentencePieceModel:
    """Parse `ModelProto`: 1 pieces, 2 trainer_spec, 3 normalizer_spec; other fields are ignored."""
    model = _message(data)
    pieces = [_piece(value) for value in model.get(1, []) if isinstance(value, bytes)]
    if not pieces:
        raise ValueError("it contains no pieces")
    # protobuf merges the fields of a message that occurs several times
    trainer, normalizer = (
        _message(b"".join(v for v in model.get(number, []) if isinstance(v, bytes)))
        for number in (2, 3)
    )
    roles = {"unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
    return SentencePieceModel(
        pieces,
        algorithm=_last(trainer, 3, 1),
        suffix_spaces=bool(_last(trainer, 24, 0)),
        special_ids={role: _signed(_last(trainer, *field)) for role, field in roles.items()},
        charsmap=bool(_last(normalizer, 2, b"")),
        dummy_prefix=bool(_last(normalizer, 3, 1)),
        squeezes_spaces=bool(_last(normalizer, 4, 1)),
        escapes_spaces=bool(_last(normalizer, 5, 1)),
    )


def _piece(data: bytes) -> tuple[str, float, int]:
    """Parse `SentencePiece`: 1 piece, 2 score, 3 type."""
    fields = _message(data)
    text, score = _last(fields, 1, b"").decode("utf-8"), _last(fields, 2, 0.0)
    kind = _last(fields, 3, NORMAL)
    if not 1 <= kind <= 6 or score != score:
        raise ValueError(f"piece {quoted(text)} has type {kind} and score {score}")
    return text, score, kind


def _message(data: bytes) -> dict[int, list[Value]]:
    """Return the values of each field, in order."""
    found: dict[int, list[Value]] = {}
    for n, (number, value) in enumerate(_fields(data)):
        if n == _MAX_FIELDS:
            raise ValueError(f"more than {_MAX_FIELDS:,} fields in one message")
        found.setdefault(number, []).append(value)
    return found


def _last(fields: dict[int, list[Value]], number: int, default: T) -> T:
    """Return a field's last value of the default's type, as protobuf does for a repeated one."""
    values = fields.get(number, ())
    return next((v for v in reversed(values) if isinstance(v, type(default))), default)


def _signed(value: int) -> int:
    """Return a varint's value as int32; negative numbers are stored in 64 bits."""
    return value - (1 << 64) if value >> 63 == 1 else value


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Yield the fields of a message: number and value (varint as int, fixed32 as float, others as bytes)."""
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
            raise ValueError(f"unsupported wire type {wire}")
        if size > len(data) - at:
            raise ValueError(f"a field of {size:,} bytes, but only {len(data) - at:,} are left")
        raw = data[at : at + size]
        at += size
        yield number, struct.unpack("<f", raw)[0] if wire == 5 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError("a number of more than ten bytes")
