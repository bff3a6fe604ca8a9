"""Tests of the machine's memory: the smallest limit of this process's control groups counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.base import machine
from turbopilot.base.machine import _limit_files, total_bytes


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], 8000), (["max", "nonsense"], 8000), (["max", "5000", "7000"], 5000),
        (["9223372036854771712"], 8000),  # cgroups v1 reports this for no limit
    ],
)  # fmt: skip
def test_total_memory_is_the_smallest_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], expected: int
) -> None:
    files = [tmp_path / "absent"]
    for i, text in enumerate(texts):
        files.append(tmp_path / str(i))
        files[-1].write_text(text)
    monkeypatch.setattr(machine, "_limit_files", lambda: files)
    monkeypatch.setattr(machine, "_posix_bytes", lambda: 8000)
    assert total_bytes() == expected


def test_limit_files_include_all_parent_groups(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("4:memory:/a/b\n3:cpuset:/\n0::/c\n")
    root = tmp_path / "fs"
    assert _limit_files(proc, root) == [
        root / "memory.max", root / "memory" / "memory.limit_in_bytes",
        root / "memory" / "a" / "b" / "memory.limit_in_bytes", root / "memory" / "a" / "memory.limit_in_bytes",
        root / "c" / "memory.max",
    ]  # fmt: skip


def test_missing_cgroup_file_leaves_only_root_limits(tmp_path: Path) -> None:
    assert len(_limit_files(tmp_path / "none", tmp_path)) == 2
