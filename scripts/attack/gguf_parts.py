"""A GGUF file taken apart, changed and put together again, so that mutations reach what the first checks guard.

Source: ggml/docs/gguf.md. Independent of the product's reader, which it attacks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from attack.mutate import INTEGERS, TEXTS, bytes_mutated, packed

CODES: Final = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))
STRING, ARRAY = 8, 9
TEMPLATES: Final = (
    "{{ 'a' * 10**10 }}", "{{ 10 ** 10 ** 10 }}", "{{ [1] * 10**9 }}", "{{ range(10**9) | list }}", "{{ 1 / 0 }}",
    "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}", "{{" * 5000,
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "{{ messages[99].content }}", "{{ ''.__class__.__mro__ }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('\x1b[2J no') }}", "{% include '/etc/passwd' %}", "{{ messages | tojson | tojson }}",
    "{{ '%999999999d' % 1 }}", "{{ 'a'.ljust(10**10) }}", "{{ messages | map('x') }}", "{{ lipsum(n=10**6) }}",
    "{{ cycler.__init__.__globals__ }}", "{{ 'a'.center(10**10) | length }}",
)  # fmt: skip
"""Chat templates that take memory or time, or fail."""


def text(value: bytes) -> bytes:
    """Return a string of the format."""
    return struct.pack("<Q", len(value)) + value


@dataclass(slots=True)
class Pair:
    """A key, its type and the bytes of its value; of an array the type of its elements and their bytes."""

    key: bytes
    kind: int
    value: bytes = b""
    element: int = 0
    items: list[bytes] = field(default_factory=list)

    def bytes(self) -> bytes:
        """Return the pair as in the file."""
        head = text(self.key) + struct.pack("<I", self.kind)
        if self.kind != ARRAY:
            return head + self.value
        return head + struct.pack("<IQ", self.element, len(self.items)) + b"".join(self.items)


@dataclass(slots=True)
class Tensor:
    """Entry of a tensor."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int

    def bytes(self) -> bytes:
        """Return the entry as in the file."""
        sizes = b"".join((n % 2**64).to_bytes(8, "little") for n in self.shape)
        numbers = struct.pack("<IQ", self.kind % 2**32, self.offset % 2**64)
        return text(self.name) + struct.pack("<I", len(self.shape)) + sizes + numbers


@dataclass(slots=True)
class Parts:
    """A file: pairs, tensors, and the data with its alignment."""

    pairs: list[Pair]
    tensors: list[Tensor]
    data: bytes
    n_pairs: int | None = None  # what the header claims; None is the truth
    n_tensors: int | None = None
    version: int = 3

    def bytes(self) -> bytes:
        """Return the file."""
        counts = [self.n_tensors, self.n_pairs]
        found = [len(self.tensors), len(self.pairs)]
        said = [b if a is None else a % 2**64 for a, b in zip(counts, found, strict=True)]
        head = b"GGUF" + struct.pack("<IQQ", self.version, *said)
        head += b"".join(p.bytes() for p in self.pairs) + b"".join(t.bytes() for t in self.tensors)
        return head + bytes(-len(head) % 32) + self.data


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, n: int) -> bytes:
        self.at += n
        return self.raw[self.at - n : self.at]

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0])

    def text(self) -> bytes:
        return self.take(self.number("Q"))

    def item(self, kind: int) -> bytes:
        return (
            text(self.text()) if kind == STRING else self.take(struct.calcsize("<" + CODES[kind]))
        )

    def pair(self) -> Pair:
        pair = Pair(self.text(), self.number("I"))
        if pair.kind == ARRAY:
            pair.element = self.number("I")
            pair.items = [self.item(pair.element) for _ in range(self.number("Q"))]
        else:
            pair.value = self.item(pair.kind)
        return pair

    def tensor(self) -> Tensor:
        name = self.text()
        shape = [self.number("Q") for _ in range(self.number("I"))]
        return Tensor(name, shape, self.number("I"), self.number("Q"))


def taken_apart(raw: bytes) -> Parts:
    """Return the parts of a valid file."""
    reader = _Reader(raw)
    reader.take(4)
    version = reader.number("I")
    n_tensors, n_pairs = reader.number("Q"), reader.number("Q")
    pairs = [reader.pair() for _ in range(n_pairs)]
    tensors = [reader.tensor() for _ in range(n_tensors)]
    reader.take(-reader.at % 32)
    return Parts(pairs, tensors, raw[reader.at :], version=version)


def gguf_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a file after one to three changes of its parts, or of its bytes."""
    if rng.random() < 0.15:
        return bytes_mutated(rng, raw)
    parts = taken_apart(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, parts)
    return parts.bytes()


def _value(rng: Random, kind: int) -> bytes:
    if kind == STRING:
        return text(rng.choice(TEXTS).encode("utf-8", "surrogatepass"))
    return packed(rng, CODES[kind]) if kind in CODES else rng.randbytes(4)


def _change_value(rng: Random, parts: Parts) -> None:
    # The model's own hyperparameters and the tokenizer's settings matter most.
    pair = rng.choice([p for p in parts.pairs if p.kind != ARRAY] or [Pair(b"x", 4)])
    pair.value = _value(rng, pair.kind)


def _change_type(rng: Random, parts: Parts) -> None:
    if parts.pairs:
        pair = rng.choice(parts.pairs)
        if rng.random() < 0.2:
            pair.kind, pair.value = rng.choice((13, 99, 2**32 - 1)), b""
            return
        pair.kind = rng.choice((*CODES, STRING, ARRAY))
        if pair.kind == ARRAY:
            pair.element = rng.choice((*CODES, STRING))
            pair.items = [_value(rng, pair.element) for _ in range(rng.choice((0, 1, 2, 3, 1000)))]
        else:
            pair.value = _value(rng, pair.kind)


def _change_array(rng: Random, parts: Parts) -> None:
    if not (arrays := [p for p in parts.pairs if p.kind == ARRAY and p.items]):
        return
    pair, way = rng.choice(arrays), rng.randrange(6)
    at = rng.randrange(len(pair.items))
    if way < 2:
        pair.items[at] = _value(rng, pair.element)
    elif way == 2:
        del pair.items[at : at + rng.choice((1, 10, 10**6))]
    elif way == 3:
        pair.items[at:at] = [pair.items[at]] * rng.choice((1, 10, 1000))
    elif way == 4:
        pair.items = [pair.items[at]] * len(pair.items)
    else:
        pair.element = rng.choice((*CODES, STRING))
        pair.items = [_value(rng, pair.element) for _ in pair.items]


def _change_pairs(rng: Random, parts: Parts) -> None:
    if not parts.pairs:
        return
    at, way = rng.randrange(len(parts.pairs)), rng.randrange(5)
    pair = parts.pairs[at]
    if way == 0:
        del parts.pairs[at]
    elif way == 1:
        parts.pairs.insert(rng.randrange(len(parts.pairs)), pair)
    elif way == 2:
        pair.key = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    elif way == 3:
        pair.key = rng.choice(parts.pairs).key
    else:
        pair.key = pair.key * rng.choice((2, 50, 5000))


def _add_pair(rng: Random, parts: Parts) -> None:
    """Add a key that llama.cpp reads and most files lack."""
    arch = next((p.value[8:] for p in parts.pairs if p.key == b"general.architecture"), b"llama")
    names = (
        b"expert_count", b"expert_used_count", b"attention.key_length", b"attention.value_length",
        b"rope.scaling.factor", b"nextn_predict_layers", b"attention.sliding_window", b"attention.head_count_kv",
        b"leading_dense_block_count",
        b"attention.clamp_kqv", b"rope.dimension_count", b"rope.dimension_sections", b"logit_scale", b"pooling_type",
        b"attention.layer_norm_rms_epsilon", b"vocab_size", b"rope.freq_base", b"embedding_length_per_layer_input",
    )  # fmt: skip
    others = (
        b"general.alignment", b"split.count", b"split.no", b"general.file_type", b"tokenizer.ggml.add_bos_token",
        b"tokenizer.ggml.token_type_count", b"tokenizer.ggml.eot_token_id", b"tokenizer.ggml.precompiled_charsmap",
        b"tokenizer.ggml.scores", b"general.quantization_version",
    )  # fmt: skip
    key = rng.choice([*(arch + b"." + n for n in names), *others])
    kind = rng.choice((4, 4, 5, 6, 7, 10, STRING, ARRAY))
    pair = Pair(key, kind)
    if kind == ARRAY:
        pair.element = rng.choice((4, 5, 6, 7, STRING))
        pair.items = [_value(rng, pair.element) for _ in range(rng.choice((0, 1, 2, 4, 2000)))]
    else:
        pair.value = _value(rng, kind)
    parts.pairs = [p for p in parts.pairs if p.key != key] + [pair]


def _change_template(rng: Random, parts: Parts) -> None:
    template = rng.choice(TEMPLATES).encode()
    parts.pairs = [p for p in parts.pairs if p.key != b"tokenizer.chat_template"]
    parts.pairs.append(Pair(b"tokenizer.chat_template", STRING, text(template)))


def _change_tensor(rng: Random, parts: Parts) -> None:
    if not parts.tensors:
        return
    at, way = rng.randrange(len(parts.tensors)), rng.randrange(9)
    tensor, other = parts.tensors[at], rng.choice(parts.tensors)
    if way == 0 and tensor.shape:
        tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(INTEGERS)
    elif way == 1:
        tensor.shape = rng.choice(
            ([], [1], [32], [2, 2, 2, 2], [1] * 5, [1] * 100, tensor.shape[::-1])
        )
    elif way == 2:
        tensor.kind = rng.choice((*range(42), 2**31, 2**32 - 1))
    elif way == 3:
        tensor.offset = rng.choice((*INTEGERS, other.offset, tensor.offset + 1, tensor.offset + 32))
    elif way == 4:
        del parts.tensors[at]
    elif way == 5:
        parts.tensors.insert(0, tensor)
    elif way == 6:
        tensor.name = rng.choice((*TEXTS, "a" * 64, "blk.999999.attn_q.weight")).encode(
            "utf-8", "surrogatepass"
        )
    else:
        tensor.shape, other.shape, tensor.kind, other.kind = (
            other.shape,
            tensor.shape,
            other.kind,
            tensor.kind,
        )
        tensor.offset, other.offset = other.offset, tensor.offset


def _change_counts(rng: Random, parts: Parts) -> None:
    way = rng.randrange(4)
    if way == 0:
        parts.n_pairs = rng.choice((*INTEGERS, len(parts.pairs) + 1, len(parts.pairs) - 1))
    elif way == 1:
        parts.n_tensors = rng.choice((*INTEGERS, len(parts.tensors) + 1, len(parts.tensors) - 1))
    elif way == 2:
        parts.version = rng.choice((0, 1, 2, 4, 2**24 * 3, 2**32 - 1))
    else:
        parts.data = parts.data[: rng.randrange(len(parts.data) + 1)]


def _change_data(rng: Random, parts: Parts) -> None:
    if parts.data:
        at = rng.randrange(len(parts.data))
        hostile = rng.choice((b"\xff\x7f" * 64, b"\0\x7c" * 64, b"\0\0\x80\x7f" * 32, bytes(256)))
        parts.data = parts.data[:at] + hostile + parts.data[at + len(hostile) :]


_CHANGES: Final[tuple[Callable[[Random, Parts], None], ...]] = (
    _change_value, _change_value, _change_value, _change_type, _change_array, _change_array, _change_pairs, _add_pair,
    _add_pair, _change_template, _change_tensor, _change_tensor, _change_counts, _change_data,
)  # fmt: skip
