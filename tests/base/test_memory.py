"""How much memory there is: a control group's limit counts, ours and those around it."""

from __future__ import annotations

from pathlib import Path

from turbopilot.base.memory import _limit_files, total_bytes


def test_there_is_some() -> None:
    assert total_bytes() > 2**28


def test_the_limits_of_all_groups_around_us(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("4:memory:/a/b\n3:cpuset:/\n0::/c\n")
    root = tmp_path / "fs"
    assert _limit_files(proc, root) == [
        root / "memory.max",
        root / "memory" / "memory.limit_in_bytes",
        root / "memory" / "a" / "b" / "memory.limit_in_bytes",
        root / "memory" / "a" / "memory.limit_in_bytes",
        root / "c" / "memory.max",
    ]


def test_no_groups_is_no_limit(tmp_path: Path) -> None:
    assert len(_limit_files(tmp_path / "none", tmp_path)) == 2
