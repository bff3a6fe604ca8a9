"""Tests of the cache of digests: entries are valid only until a file is written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_inspect import hand_made
from tests.support.signed import flip
from turbopilot.formats.gguf import digest as gguf_digest
from turbopilot.formats.gguf.certificate import digests, remembered_digests
from turbopilot.formats.gguf.file import read_gguf


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """List of the models whose tensors are read, in order. The clock is an hour ahead of every file."""
    seen: list[Path] = []
    tensors = gguf_digest._tensors

    def counted(header: Any, progress: Any) -> str:
        seen.append(header.path)
        return tensors(header, progress)

    monkeypatch.setattr(gguf_digest, "_tensors", counted)
    now = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("turbopilot.base.file_digest.time.time_ns", lambda: now)
    return seen


def test_digests_are_cached(unsigned: Path, tmp_path: Path, reads: list[Path]) -> None:
    folder, link = tmp_path / "cache" / "deep", tmp_path / "link.gguf"
    link.symlink_to(unsigned)
    first = remembered_digests(read_gguf(unsigned), folder)
    assert remembered_digests(read_gguf(unsigned), folder) == first == digests(unsigned)
    assert remembered_digests(read_gguf(link), folder) == first
    assert reads == [unsigned, unsigned], "once for the cache, once by digests()"
    assert [p.name for p in folder.iterdir()] == ["digests.json"]


@pytest.mark.parametrize("kind", ["written", "same time", "replaced"])
def test_changed_file_is_read_again(
    unsigned: Path, tmp_path: Path, reads: list[Path], kind: str
) -> None:
    first, before = remembered_digests(read_gguf(unsigned), tmp_path), unsigned.stat()
    at = read_gguf(unsigned).tensors[0].offset
    if kind == "replaced":
        other = Path(shutil.copy(unsigned, tmp_path / "other"))
        flip(other, at)
        other.replace(unsigned)
    else:
        flip(unsigned, at)
    if kind != "written":
        os.utime(unsigned, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_digests(read_gguf(unsigned), tmp_path) == digests(unsigned) != first


def test_change_of_one_part_is_detected(
    split_model: Path, tmp_path: Path, reads: list[Path]
) -> None:
    first = remembered_digests(read_gguf(split_model), tmp_path)
    assert remembered_digests(read_gguf(split_model), tmp_path) == first
    assert reads == [split_model]
    last = read_gguf(split_model).tensors[-1]
    flip(last.path, last.offset)
    assert remembered_digests(read_gguf(split_model), tmp_path) != first


def test_digests_of_a_just_written_file_are_not_cached(
    unsigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard against a second write within the same tick of the file system's clock."""
    stat = unsigned.stat()
    now = max(stat.st_mtime_ns, stat.st_ctime_ns) + 10**9
    monkeypatch.setattr("turbopilot.base.file_digest.time.time_ns", lambda: now)
    remembered_digests(read_gguf(unsigned), tmp_path)
    assert not (tmp_path / "digests.json").exists()


def test_digests_of_a_file_changed_while_read_are_not_cached(
    unsigned: Path, tmp_path: Path, reads: list[Path]
) -> None:
    def touch(*_: object) -> None:
        os.utime(unsigned, ns=(0, 0))

    remembered_digests(read_gguf(unsigned), tmp_path, touch)
    assert not (tmp_path / "digests.json").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"\xff\xfe\0",
        lambda raw: b"[]",
        lambda raw: b"[" * 100_000,
        lambda raw: b'{"x": 1}',
        lambda raw: raw.replace(b'"tensors"', b'"tensor"'),
        lambda raw: raw.replace(b'"tensors": "', b'"tensors": "x'),
        lambda raw: raw.replace(b'"files": [', b'"files": 1, "f": ['),
    ],
)
def test_damaged_cache_is_ignored(
    unsigned: Path, tmp_path: Path, reads: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    first = remembered_digests(read_gguf(unsigned), tmp_path)
    memory = tmp_path / "digests.json"
    memory.write_bytes(damage(memory.read_bytes()))
    for _ in range(2):
        assert remembered_digests(read_gguf(unsigned), tmp_path) == first
    assert len(reads) == 2, "read again once, then cached again"


def test_unwritable_cache_folder_is_ignored(
    unsigned: Path, tmp_path: Path, reads: list[Path]
) -> None:
    (tmp_path / "taken").write_text("x")
    assert remembered_digests(read_gguf(unsigned), tmp_path / "taken") == digests(unsigned)
    assert (tmp_path / "taken").read_text() == "x"


def test_cache_size_is_limited(
    unsigned: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbopilot.base.file_digest._MOST", 2)
    files = [hand_made(tmp_path / f"{i}.gguf", {}) for i in range(3)]
    for path in files:
        remembered_digests(read_gguf(path), tmp_path)
    known = json.loads((tmp_path / "digests.json").read_text())
    assert list(known) == [str(p.resolve()) for p in files[1:]]
