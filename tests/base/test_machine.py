"""Memory and cores: the smallest limit of this process's control groups counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.base import machine
from turbopilot.base.machine import _limit_files, cpu_quota, total_bytes


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


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"c/cpu.max": "50000 100000", "cpu.max": "400000 100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.0),
    ],
)
def test_quota_is_the_smallest_of_all_groups(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text("3:cpu,cpuacct:/a\n0::/c\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    assert cpu_quota(proc, root) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (0.5, 1), (1.5, 2), (16.0, 4)])
def test_threads_respect_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(machine, "physical_cores", lambda _: 4)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.usable_cores() == expected
