"""Old ggml files that are damaged, too old, inconsistent or of another format are rejected, and no output is left."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import ConversionOptions, convert
from converters.legacy_ggml import open_old
from converters.legacy_ggml.vocabulary import read_vocabulary
from tests.support.old_ggml import old_gptj, old_starcoder, token_bytes, write_old
from tests.support.tiny import SPACES, tiny_checkpoint
from turbopilot.base.errors import (
    CorruptCheckpoint,
    InvalidInput,
    TokenizerMismatch,
    TurboPilotError,
    UnsupportedModel,
)

SMALL: dict[str, Any] = {
    "n_embd": 64,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 32,
    "vocab_size": 720,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("gptj", tmp_path_factory.mktemp("gptj"), **SMALL)


@pytest.fixture(scope="module")
def good(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return old_gptj(folder, tmp_path_factory.mktemp("old") / "old.bin", "Q4_0").read_bytes()


def fails(path: Path, error: type[TurboPilotError], word: str) -> None:
    with pytest.raises(error, match=word) as caught:
        convert(path, path.with_suffix(".gguf"))
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert [p for p in path.parent.iterdir() if p.suffix != ".bin"] == []


def test_truncated_old_file_is_rejected(good: bytes, tmp_path: Path) -> None:
    """Truncate at every byte of the header, at 300 random offsets, and before the last byte."""
    path = tmp_path / "cut.bin"
    cuts = [*range(4, 64), *random.Random(0).sample(range(64, len(good)), 300), len(good) - 1]
    for cut in cuts:
        path.write_bytes(good[:cut])
        with pytest.raises(TurboPilotError):
            convert(path, tmp_path / "out.gguf")
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("magic", "word"),
    [
        (b"fmgg", "ggmf"), (b"tjgg", "ggjt"), (b"algg", "ggla"), (b"GGUF", "already a GGUF file"),
        (b"PK\x03\x04", "PyTorch"), (b"\x00\x00\x00\x00", "not a model file of a known kind"),
    ],
)  # fmt: skip
def test_other_file_formats_are_rejected_by_name(
    magic: bytes, word: str, good: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(magic + good[4:])
    fails(path, InvalidInput, word)


@pytest.mark.parametrize("version", [0, 1])
def test_blocks_from_before_may_2023_are_rejected(
    version: int, folder: Path, tmp_path: Path
) -> None:
    path = old_gptj(folder, tmp_path / "old.bin", "Q4_0", version=version)
    fails(path, UnsupportedModel, f"blocks are of version {version}")


def test_float_tensors_of_any_version_convert(folder: Path, tmp_path: Path) -> None:
    convert(old_gptj(folder, tmp_path / "old.bin", "F16", version=0), tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("at", "value", "word"),
    [
        (4, 2**31 - 1, "does not fit codegen"),  # n_vocab, which is stored twice
        (4, 0, "does not fit codegen"),
        (12, 65, "does not fit codegen"),  # n_embd
        (20, 7, "do not match"),  # n_layer
        (24, 64, "does not fit codegen"),  # n_rot beyond the head
        (36, -1, "token 0"),
        (36, 1 << 20, "token 0"),
    ],
)
def test_invalid_header_numbers_are_rejected(
    at: int, value: int, word: str, good: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "lies.bin"
    path.write_bytes(good[:at] + struct.pack("<i", value) + good[at + 4 :])
    fails(path, TurboPilotError, word)


def test_huge_vocabulary_size_is_rejected(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lies.bin"
    n = struct.pack("<i", 2**31 - 1)
    path.write_bytes(good[:4] + n + good[8:32] + n + good[36:])
    fails(path, CorruptCheckpoint, "2,147,483,647 tokens")


def test_invalid_tensor_headers_are_rejected(good: bytes, tmp_path: Path) -> None:
    at = good.index(b"transformer.wte.weight")
    for offset, value, word in [
        (-20, 9, "9 dimensions"),
        (-16, 70_000, "name of 70,000 bytes"),
        (-12, 4, "Q4_2"),
        (-12, 12, "Q4_K"),
        (-12, 99, "number 99"),
        (-8, 33, "cannot have the shape"),
        (-4, 2**30, "ends inside tensor 'transformer.wte.weight'"),
    ]:
        path = tmp_path / "lies.bin"
        path.write_bytes(good[: at + offset] + struct.pack("<i", value) + good[at + offset + 4 :])
        fails(path, TurboPilotError, word)


def test_model_type_that_contradicts_the_file_is_rejected(folder: Path, tmp_path: Path) -> None:
    path = old_gptj(folder, tmp_path / "old.bin", "F32")
    for model_type in ("starcoder", "wizardcoder", "stablecode"):
        with pytest.raises(CorruptCheckpoint, match=r"old\.bin") as caught:
            convert(path, tmp_path / "out.gguf", ConversionOptions(model_type=model_type))
        assert "model-type" in caught.value.hint
    other = tiny_checkpoint("gptbigcode", tmp_path / "starcoder")
    path = old_starcoder(other, tmp_path / "starcoder.bin", "F32")
    with pytest.raises(CorruptCheckpoint, match=r"starcoder\.bin"):
        convert(path, tmp_path / "out.gguf", ConversionOptions(model_type="codegen"))
    assert not (tmp_path / "out.gguf").exists()


def test_vocabulary_that_is_not_bpe_is_rejected(folder: Path, tmp_path: Path) -> None:
    words = [b"word%d" % i for i in range(720)]
    path = write_old(tmp_path / "x.bin", [720, 32, 64, 2, 1, 16], "F32", words, {})
    with pytest.raises(CorruptCheckpoint, match="no tensor"):
        open_old(path)
    with pytest.raises(TokenizerMismatch, match="not byte-level BPE"):
        read_vocabulary(path, words, ("gpt-2",))


def test_added_tokens_of_neox_and_starcoder_are_recognised(folder: Path) -> None:
    """Put special tokens before the alphabet, and runs of spaces, some of which look like merges, after the merges."""
    base = token_bytes(folder, 699, None)[:699]
    sample = [b"<|endoftext|>", b"<|padding|>", *base]
    runs = [s.encode() for s in SPACES[7:]]  # 24 down to 2, as GPT-NeoX has them
    read = read_vocabulary(folder, [*sample, *runs, runs[-1], runs[-1]], ("starcoder", "gpt-2"))
    assert [t.text for t in read.added] == ["<|endoftext|>", "<|padding|>", *SPACES[7:]]
    assert len(read.merges) == 699 - 256
    assert read.pre == "gpt-2"
    assert len(read.ids) == len(sample) + len(runs)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_bytes_never_crash_the_reader(
    data: st.DataObject, good: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Allow only a model or a TurboPilotError."""
    directory = len(good) - 40_000
    at = data.draw(st.integers(4, min(directory, 12_000)))
    new = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path_factory.mktemp("fuzz") / "x.bin"
    path.write_bytes(good[:at] + new + good[at + len(new) :])
    with suppress(TurboPilotError):
        open_old(path)
