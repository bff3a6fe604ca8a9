"""Restrictions and limits of a sandboxed child process."""

from __future__ import annotations

import ctypes
import platform
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from turbopilot.llama.child import ChildFailed, run_child

CHILD = "tests.support.sandboxed_child"
FILES = {"write", "overwrite", "remove", "rename", "link", "folder"}
CALLS = {"TCP socket", "UDP socket", "Unix socket", "program"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sandbox")


def run(job: dict[str, Any]) -> dict[str, Any]:
    received: dict[str, Any] = {}
    run_child(CHILD, job, on_message=received.update)
    return received


def landlock_abi() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


@pytest.mark.parametrize("do", ["attempts", "thread"])
def test_child_can_only_read(tmp_path: Path, do: str) -> None:
    if sys.platform != "linux" or landlock_abi() < 1:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "old").write_text("content")
    received = run({"do": do, "folder": str(tmp_path)})
    assert set(received["refused"]) >= FILES
    assert "read" not in received["refused"]
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "content"


@pytest.mark.parametrize("do", ["attempts", "thread"])
def test_child_has_no_network_and_starts_no_program(tmp_path: Path, do: str) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no seccomp filter for this machine")
    if "Seccomp_filters:" not in Path("/proc/self/status").read_text():
        pytest.skip("this kernel has no seccomp filters")
    (tmp_path / "old").write_text("content")
    assert set(run({"do": do, "folder": str(tmp_path)})["refused"]) >= CALLS


def test_active_protections_are_reported(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("content")
    received = run({"do": "attempts", "folder": str(tmp_path)})
    active, refused = set(received["active"]), set(received["refused"])
    assert "limits" in active
    assert ("landlock" in active) == (refused >= FILES)
    assert ("seccomp" in active) == (refused >= CALLS)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux alone")
def test_memory_is_limited() -> None:
    assert 0 < run({"do": "allocate", "memory": 1 << 30})["blocks"] < 64


def test_endless_computation_is_ended() -> None:
    with pytest.raises(ChildFailed) as caught:
        run({"do": "spin", "seconds": 1})
    assert caught.value.code == -signal.SIGXCPU
