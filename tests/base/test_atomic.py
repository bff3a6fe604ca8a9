"""Tests of atomic output: a file is written completely or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from turbopilot.base.atomic import check_disk, check_output, replacing
from turbopilot.base.errors import InvalidInput, NotEnoughDisk

ROOT = Path(__file__).parents[2]


def test_part_file_is_renamed_on_success(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
        assert not (tmp_path / "x").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_failure_keeps_only_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "x").write_text("old")

    def work() -> None:
        with replacing(tmp_path / "x") as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def fill(path: Path, error: OSError) -> None:
    with replacing(path) as part:
        part.write_text("half")
        raise error


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "your disk quota is used up"),
        (errno.EFBIG, "larger than the file system"),
    ],
)
def test_full_disk_error_is_reported(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(NotEnoughDisk, match=words) as e:
        fill(tmp_path / "x", OSError(number, "in the system's words"))
    assert str(tmp_path / "x") in str(e.value)
    assert e.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full exists only on Linux")
def test_write_to_full_device_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.part").symlink_to("/dev/full")

    def work() -> None:
        with replacing(tmp_path / "x") as part, part.open("wb") as f:
            f.write(b"half")

    with pytest.raises(NotEnoughDisk, match="disk is full"):
        work()
    assert not list(tmp_path.iterdir())


def test_unwritable_output_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.part").mkdir()
    with pytest.raises(InvalidInput, match="x: cannot be written") as e:
        fill(tmp_path / "x", OSError())
    assert "-o" in e.value.hint
    part = str(tmp_path / "y.part")
    with pytest.raises(InvalidInput, match="cannot be written: Read-only"):
        fill(tmp_path / "y", OSError(errno.EROFS, "Read-only file system", part))


def test_errors_about_other_files_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        fill(tmp_path / "x", PermissionError(errno.EACCES, "Permission denied", "/else/where"))
    assert not list(tmp_path.iterdir())


def test_leftover_part_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_text("half of the last run, which was longer")
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize("verb", ["convert", "quantize"])
def test_commands_leave_no_files_at_the_file_size_limit(
    demo_gguf: Path, tmp_path: Path, verb: str
) -> None:
    """Simulate a full disk by a limit on file sizes, which the kernel enforces and which does not need root."""
    arguments = {
        "convert": ["convert", "demo", "-o", "out.gguf"],
        "quantize": ["quantize", str(demo_gguf), "Q8_0", "-o", "out.gguf"],
    }[verb]
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        f"sys.argv = ['turbopilot', *{arguments!r}]\n"
        "from turbopilot.cli import main\nmain()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == {"convert": 3, "quantize": 6}[verb], done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert {"convert": "larger than", "quantize": "the disk may be full"}[verb] in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_missing_disk_space_is_reported_early() -> None:
    with pytest.raises(NotEnoughDisk, match="are free"):
        check_disk(Path.cwd(), 10**18)
    check_disk(Path.cwd(), 1)


def test_bad_outputs_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_output(tmp_path / "new", force=False)
    check_output(tmp_path / "file", force=True)
    for path, force, word in (
        (tmp_path, True, "is a folder"),
        (tmp_path / "file", False, "exists already"),
        (tmp_path / "no" / "x", False, "no such folder"),
    ):
        with pytest.raises(InvalidInput, match=word) as e:
            check_output(path, force=force)
        assert e.value.hint
    with pytest.raises(InvalidInput, match="same file"):
        check_output(tmp_path / "link", force=True, inputs=(tmp_path / "file",))
