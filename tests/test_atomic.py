"""Files appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from turbopilot.atomic import check_disk, check_output, replacing
from turbopilot.errors import InvalidInput, NotEnoughDisk


def test_success_renames(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
        assert not (tmp_path / "x").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "x").write_text("old")

    def work() -> None:
        with replacing(tmp_path / "x") as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    def work() -> None:
        with replacing(tmp_path / "x") as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NotEnoughDisk, match="disk is full"):
        work()
    assert not list(tmp_path.iterdir())


def test_too_little_disk_is_said_before() -> None:
    with pytest.raises(NotEnoughDisk, match="are free"):
        check_disk(Path.cwd(), 10**18)
    check_disk(Path.cwd(), 1)


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
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
