"""Tests of atomic output: a file is written completely or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from turbopilot.base.atomic import check_disk, check_output, part_of, remove_leftovers, replacing
from turbopilot.base.errors import InvalidInput, NotEnoughDisk
from turbopilot.base.file_digest import SourceWatch

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
    def work() -> None:
        with replacing(tmp_path / "x"), Path("/dev/full").open("wb") as f:
            f.write(b"half")

    with pytest.raises(NotEnoughDisk, match="disk is full"):
        work()
    assert not list(tmp_path.iterdir())


def test_unwritable_output_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="x: cannot be written: No such file") as e:
        fill(tmp_path / "missing" / "x", OSError())
    assert "-o" in e.value.hint


def test_errors_about_other_files_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        fill(tmp_path / "x", PermissionError(errno.EACCES, "Permission denied", "/else/where"))
    assert not list(tmp_path.iterdir())


def test_part_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    left = part_of(tmp_path / "x")
    left.write_text("half of the last run")
    part_of(tmp_path / "x").mkdir()
    unrelated = [tmp_path / "x.part", tmp_path / "y.0123456789abcdef.part"]
    for path in unrelated:
        path.write_text("of another program or name")
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "x", *unrelated])
    assert (tmp_path / "x").read_text() == "new"


def test_part_of_a_living_writer_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "x") as first:
        first.write_text("first")
        with replacing(tmp_path / "x") as second:
            second.write_text("second")
        assert first != second
        assert first.read_text() == "first"
        assert (tmp_path / "x").read_text() == "second"
    assert (tmp_path / "x").read_text() == "first"


def test_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse a link with the part's name, even if an attacker knew that name."""
    (tmp_path / "victim").write_text("precious")
    part = tmp_path / "x.0123456789abcdef.part"
    part.symlink_to(tmp_path / "victim")
    monkeypatch.setattr("turbopilot.base.atomic.part_of", lambda path: part)
    with pytest.raises(InvalidInput, match="File exists"):
        fill(tmp_path / "x", OSError())
    assert (tmp_path / "victim").read_text() == "precious"


def test_link_or_device_is_refused_as_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="is a link") as e:
        check_output(tmp_path / "link", force=True)
    assert str(tmp_path / "file") in e.value.hint
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InvalidInput, match="is a device, pipe or socket"):
            check_output(path, force=True)


def test_output_inside_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ck" / "sub").mkdir(parents=True)
    for path in (tmp_path / "ck" / "x.gguf", tmp_path / "ck" / "sub" / "x.gguf"):
        with pytest.raises(InvalidInput, match="is inside the source"):
            check_output(path, force=True, outside=tmp_path / "ck")
    check_output(tmp_path / "ck2.gguf", force=True, outside=tmp_path / "ck")


def test_part_taken_for_a_leftover_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let another writer remove the part after it was created and before it is locked."""
    opened: list[Path] = []
    real = os.open

    def remove_first(path: Path, flags: int, *mode: int) -> int:
        if Path(path).suffix == ".part" and not flags & os.O_CREAT and not opened:
            opened.append(path)
            remove_leftovers(tmp_path / "x")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", remove_first)
    with replacing(tmp_path / "x") as part:
        part.write_text("new")
    assert opened
    assert opened[0] != part
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_concurrent_writers_never_mix(tmp_path: Path) -> None:
    """Let several processes write one output at once: a complete file of one of them remains."""
    code = (
        "import sys, pathlib\n"
        "from turbopilot.base.atomic import replacing\n"
        "path, letter = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(20):\n"
        "    with replacing(path) as part, part.open('w') as f:\n"
        "        for _ in range(50):\n"
        "            f.write(letter * 1000)\n"
        "            f.flush()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x"), letter], env=env)
        for letter in "abcd"
    ]
    assert [w.wait(60) for w in writers] == [0, 0, 0, 0]
    text = (tmp_path / "x").read_text()
    assert text == text[0] * 50_000
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_changed_source_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    watch = SourceWatch([tmp_path])
    watch.check([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "c").write_text("c")
    (tmp_path / "c").replace(tmp_path / "b")
    watch.check([tmp_path / "a"])
    with pytest.raises(InvalidInput, match="b: changed while it was read"):
        watch.check([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("verb", ["convert", "quantize", "imatrix"])
def test_commands_leave_no_files_at_the_file_size_limit(
    demo_gguf: Path, tmp_path: Path, verb: str
) -> None:
    """Simulate a full disk by a limit on file sizes, which the kernel enforces and which does not need root."""
    arguments = {
        "convert": ["convert", "demo", "-o", "out.gguf"],
        "quantize": ["quantize", str(demo_gguf), "Q8_0", "-o", "out.gguf"],
        "imatrix": ["imatrix", str(demo_gguf), "--chunks", "1", "--ctx", "32", "-o", "out.gguf"],
    }[verb]
    limit = 10_000 if verb == "imatrix" else 1_000_000
    script = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"sys.argv = ['turbopilot', *{arguments!r}]\n"
        "from turbopilot.cli import main\nmain()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == {"convert": 3, "quantize": 6, "imatrix": 3}[verb], done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert ("the disk may be full" if verb == "quantize" else "larger than") in done.stderr
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
