"""Deliberate faults: copies of a GGUF file with a few bytes changed in place.

The faults are independent of the converters (`read_gguf` reads only the header) and work for every quantization type:
a row is a whole number of blocks, so whole rows can be moved. Each fault is a bug that a converter could have, and
verify must notice every one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from turbopilot.formats.gguf.file import GgufHeader, TensorInfo, read_gguf

Edit = Callable[[Path, GgufHeader], None]


def faulty(source: Path, target: Path, edit: Edit) -> Path:
    shutil.copyfile(source, target)
    edit(target, read_gguf(target))
    return target


def tensor(header: GgufHeader, name: str) -> TensorInfo:
    return next(t for t in header.tensors if t.name == name)


def rows(path: Path, t: TensorInfo) -> npt.NDArray[np.uint8]:
    """Return a writable view (rows, bytes of a row) of the tensor in the file."""
    n_rows = t.shape[1] if len(t.shape) > 1 else 1
    return np.memmap(path, np.uint8, "r+", t.offset, (n_rows, t.n_bytes // n_rows))


def _number(header: GgufHeader, key: str) -> int:
    value = header.metadata[f"{header.architecture}.{key}"]
    assert isinstance(value, int)
    return value


def _heads(path: Path, header: GgufHeader, name: str) -> npt.NDArray[np.uint8]:
    """Return a writable view (heads, rows of a head, bytes of a row) of a matrix."""
    view = rows(path, tensor(header, name))
    return view.reshape(_number(header, "attention.head_count"), -1, view.shape[1])


def _layers(header: GgufHeader) -> range:
    return range(_number(header, "block_count"))


def _permute_rotary(path: Path, header: GgufHeader, name: str, *, again: bool = False) -> None:
    """Undo the rotary permutation of a q or k matrix, or apply it once more."""
    rotary = _number(header, "rope.dimension_count")
    heads = _heads(path, header, name)
    halves = (rotary // 2, 2) if again else (2, rotary // 2)
    split = heads[:, :rotary].reshape(heads.shape[0], *halves, heads.shape[2])
    heads[:, :rotary] = split.swapaxes(1, 2).reshape(heads.shape[0], rotary, -1).copy()


def interleaved_rotary(path: Path, header: GgufHeader, *, again: bool = False) -> None:
    """Skip the rotary permutation: write x0 y0 x1 y1 … instead of phi2's x0 x1 … y0 y1 …"""
    for layer in _layers(header):
        for part in "qk":
            _permute_rotary(path, header, f"blk.{layer}.attn_{part}.weight", again=again)


def rotary_in_one_layer(path: Path, header: GgufHeader) -> None:
    """Skip the rotary permutation in the keys of the first layer."""
    _permute_rotary(path, header, "blk.0.attn_k.weight")


def rotary_twice(path: Path, header: GgufHeader) -> None:
    """Apply the rotary permutation a second time, as if x0 x1 … y0 y1 … were x0 y0 x1 y1 …"""
    interleaved_rotary(path, header, again=True)


def swapped_q_and_k(path: Path, header: GgufHeader) -> None:
    for layer in _layers(header):
        q, k = (rows(path, tensor(header, f"blk.{layer}.attn_{part}.weight")) for part in "qk")
        q[:], k[:] = k.copy(), q.copy()


def rolled_head(path: Path, header: GgufHeader) -> None:
    """Rotate the rows of one head of the first layer's values by one."""
    heads = _heads(path, header, "blk.0.attn_v.weight")
    heads[1] = np.roll(heads[1], 1, axis=0)


def zeroed(name: str) -> Edit:
    """Return an edit that overwrites a tensor with zeros."""

    def edit(path: Path, header: GgufHeader) -> None:
        rows(path, tensor(header, name))[:] = 0

    return edit


def shifted_embedding(path: Path, header: GgufHeader) -> None:
    """Give each token the embedding of its neighbor."""
    view = rows(path, tensor(header, "token_embd.weight"))
    view[:] = np.roll(view, 1, axis=0)


def not_a_number(name: str) -> Edit:
    """Return an edit that writes NaN into an F32 vector, like an overflow in the conversion."""

    def edit(path: Path, header: GgufHeader) -> None:
        rows(path, tensor(header, name)).view(np.float32)[0, 0] = np.nan

    return edit


def without_offset(path: Path, header: GgufHeader) -> None:
    """Write the norms of the first layer as Gemma stores them, without the 1 that its code adds."""
    for name in ("attn_norm", "ffn_norm"):
        view = rows(path, tensor(header, f"blk.0.{name}.weight")).view(np.float32)
        view[:] -= 1


def swapped_merges(path: Path, header: GgufHeader) -> None:
    """Exchange the first and the last merge of two letters."""
    merges = header.metadata["tokenizer.ggml.merges"]
    assert isinstance(merges, list)
    # Merges of letters: CodeGen has tokens for runs of spaces, so merges of spaces matter little.
    pairs = [m.encode() for m in map(str, merges) if len(m) == 3 and m.replace(" ", "").isalpha()]
    pairs = [m for m in pairs if m.isascii()]
    _swap_strings(path, b"tokenizer.ggml.merges", pairs[0], pairs[-1])


def swapped_tokens(path: Path, header: GgufHeader) -> None:
    """Exchange the tokens of two letters."""
    _swap_strings(path, b"tokenizer.ggml.tokens", b"e", b"t")


def lost_spaces(path: Path, header: GgufHeader) -> None:
    """Replace the text of the token of four spaces."""
    data = bytearray(path.read_bytes())
    text = (4).to_bytes(8, "little") + b"    "
    at = data.index(text, data.index(b"tokenizer.ggml.tokens")) + 8
    data[at : at + 4] = b"\x01\x02\x01\x02"
    path.write_bytes(data)


def _swap_strings(path: Path, key: bytes, a: bytes, b: bytes) -> None:
    """Exchange the first occurrences of two strings of equal length in an array of the metadata."""
    assert len(a) == len(b)
    data = bytearray(path.read_bytes())
    start = data.index(key)
    length = len(a).to_bytes(8, "little")
    at_a, at_b = data.index(length + a, start) + 8, data.index(length + b, start) + 8
    data[at_a : at_a + len(a)], data[at_b : at_b + len(b)] = b, a
    path.write_bytes(data)


TOKENIZER_FAULTS: Final[Mapping[str, Edit]] = {
    "swapped merges": swapped_merges,
    "swapped tokens": swapped_tokens,
    "token of spaces lost": lost_spaces,
}

WEIGHT_FAULTS: Final[Mapping[str, Edit]] = {
    "rotary permutation skipped": interleaved_rotary, "rotary permutation applied twice": rotary_twice,
    "rotary permutation skipped in one tensor": rotary_in_one_layer, "q and k swapped": swapped_q_and_k,
    "a head's rows rolled by one": rolled_head, "ffn_up bias dropped": zeroed("blk.0.ffn_up.bias"),
    "ffn_down bias dropped": zeroed("blk.1.ffn_down.bias"),
    "attn_norm bias dropped": zeroed("blk.0.attn_norm.bias"), "output bias dropped": zeroed("output.bias"),
    "embedding shifted by one": shifted_embedding,
}  # fmt: skip
