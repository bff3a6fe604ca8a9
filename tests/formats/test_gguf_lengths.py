"""Lengths in a GGUF header are checked before anything is read, and messages quote little of a file."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from tests.formats.test_gguf_file import build, tensor, text
from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf import cursor
from turbopilot.formats.gguf.file import read_gguf

LONG = 50_000  # characters, less than the longest allowed key
U32 = struct.pack("<II", 4, 1)


def refused(path: Path, raw: bytes) -> str:
    path.write_bytes(raw)
    with pytest.raises(CorruptModel) as caught:
        read_gguf(path)
    return caught.value.message.removeprefix(str(path))


@pytest.mark.parametrize("what", ["key", "name", "text"])
def test_length_of_nearly_the_whole_file_reads_nothing(tmp_path: Path, what: str) -> None:
    path, size = tmp_path / "x.gguf", 1 << 30
    claimed = struct.pack("<Q", size - 64)
    raw = {
        "key": build(n_keys=1, rest=claimed),
        "name": build(n_tensors=1, rest=claimed),
        "text": build(n_keys=1, rest=text("k") + struct.pack("<I", 8) + claimed),
    }
    path.write_bytes(raw[what])
    os.truncate(path, size)  # without taking space on the disk
    tracemalloc.start()
    try:
        with pytest.raises(CorruptModel) as caught:
            read_gguf(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10_000_000
    assert len(caught.value.message) < 300 + len(str(path))


def test_longest_key_and_name_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    key, name = "k" * 65_535, "n" * 64
    path.write_bytes(
        build(n_tensors=1, n_keys=1, rest=text(key) + U32 + tensor(name, (4,), 0, 0) + bytes(96))
    )
    header = read_gguf(path)
    assert header.metadata == {key: 1}
    assert header.tensors[0].name == name


def test_longer_key_or_name_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    assert "65,536 bytes" in refused(path, build(n_keys=1, rest=text("k" * 65_536) + U32))
    raw = build(n_tensors=1, rest=tensor("n" * 65, (4,), 0, 0) + bytes(96))
    assert "65 bytes (at most 64" in refused(path, raw)


@pytest.mark.parametrize(
    "rest",
    [
        text("k") + struct.pack("<I", 8) + text("v" * 3000),
        text("k") + struct.pack("<IIQ", 9, 0, 3000) + bytes(3000),
        text("k") + struct.pack("<IIQ", 9, 8, 300) + bytes(8 * 300),
        b"".join(text(k) + struct.pack("<IIQ", 9, 8, 100) + bytes(8 * 100) for k in "abk"),
    ],
)
def test_header_larger_than_any_vocabulary_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(cursor, "MOST_HEADER_BYTES", 2000)
    raw = build(n_keys=3 if rest.startswith(text("a")) else 1, rest=rest)
    assert "header" in refused(tmp_path / "x.gguf", raw + bytes(10_000))


KEY = text("k" * LONG)


@pytest.mark.parametrize(
    "raw",
    [
        build(n_keys=2, rest=(KEY + U32) * 2),
        build(n_keys=1, rest=KEY + struct.pack("<I", 99)),
        build(n_keys=1, rest=KEY + struct.pack("<I", 4)),
        build(n_keys=1, rest=KEY + struct.pack("<IQ", 8, 1 << 60)),
        build(n_keys=1, rest=KEY + struct.pack("<IIQ", 9, 8, 1 << 60)),
        build(n_keys=1, rest=KEY + struct.pack("<IIQ", 9, 4, 1 << 60)),
        build(n_keys=1, rest=text("general.alignment") + struct.pack("<I", 8) + KEY),
        build(n_keys=1, rest=text("general.alignment") + struct.pack("<IIQ", 9, 0, LONG) + bytes(LONG)),
        build(n_keys=1, rest=text("split.count") + struct.pack("<I", 8) + KEY),
        build(n_keys=1, rest=text("split.count") + struct.pack("<IIQ", 9, 0, LONG) + bytes(LONG)),
        build(n_keys=1, rest=text("split.count") + struct.pack("<IQ", 10, 1 << 63)),
    ],
    ids=range(11),
)  # fmt: skip
def test_message_quotes_little_of_the_file(tmp_path: Path, raw: bytes) -> None:
    assert len(refused(tmp_path / "x.gguf", raw)) < 300
