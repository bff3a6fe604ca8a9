"""Cached artifacts are made once, even if several processes need them at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import converters
import quantize.imatrix
from quantize.imatrix import GatherOptions, gather
from quantize.imatrix.gather import resume_path
from turbopilot.app.cached_artifacts import converted, imported, matrix_file
from turbopilot.base.atomic import locked
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class SlowMaker:
    """Stand-in for a conversion that ends when a second caller waits for it."""

    def __init__(self, content: Path | None = None) -> None:
        self.calls = 0
        self.started, self.waited_for = threading.Event(), threading.Event()
        self.content = content

    def __call__(self, source: Path, target: Path, *_: Any, **__: Any) -> Any:
        self.calls += 1
        self.started.set()
        assert self.waited_for.wait(60)
        if self.content:
            shutil.copyfile(self.content, target)
        else:
            target.write_bytes(b"made")
        return SimpleNamespace(
            n_bytes=4, seconds=0.0, architecture="x", dtype="F16", n_chunks=1, chunk_size=1
        )

    def notify(self, line: str) -> None:
        if line.startswith("waiting for another process"):
            self.waited_for.set()

    def both(self, make: Callable[[Reporter], Path | None]) -> list[Path | None]:
        """Call `make` on two threads, the second while the first is at work."""
        reporter = Reporter(notify=self.notify)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(make, reporter)
            assert self.started.wait(60)
            second = pool.submit(make, reporter)
            return [first.result(60), second.result(60)]


def test_second_converter_waits_and_uses_the_result(
    demo_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = SlowMaker()
    monkeypatch.setattr(converters, "convert", maker)
    found = maker.both(lambda r: converted(demo_checkpoint, "F16", name="demo", reporter=r))
    assert maker.calls == 1
    assert found[0] == found[1]
    assert list(cache.iterdir()) == [found[0]]


def test_second_gatherer_waits_and_uses_the_result(
    demo_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = SlowMaker()
    monkeypatch.setattr(quantize.imatrix, "gather", maker)
    found = maker.both(lambda r: matrix_file("auto", demo_gguf, r))
    assert maker.calls == 1
    assert found[0] == found[1]
    assert list(cache.iterdir()) == [found[0]]


def test_second_importer_waits_and_uses_the_result(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from turbopilot.formats.gguf.edit import set_metadata

    (tmp_path / "old.bin").write_bytes(b"lmgg")
    shutil.copyfile(demo_gguf, tmp_path / "made.gguf")
    set_metadata(tmp_path / "made.gguf", {"turbopilot.source.files": ["old.bin"]})
    maker = SlowMaker(tmp_path / "made.gguf")
    monkeypatch.setattr(converters, "convert", maker)
    found = maker.both(lambda r: imported(tmp_path / "old.bin", r))
    assert maker.calls == 1
    assert found == [tmp_path / "old.bin.gguf"] * 2


def test_f16_file_stays_until_every_type_is_made(
    demo_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make two quantized types at once: neither removes the F16 file that the other one reads."""
    maker = SlowMaker()
    monkeypatch.setattr(converters, "convert", maker)

    def read(source: Path, target: Path, *_: Any, **__: Any) -> None:
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(quantize, "quantize", read)
    types = iter(["Q4_0", "Q8_0"])
    found = maker.both(lambda r: converted(demo_checkpoint, next(types), name="demo", reporter=r))
    assert sorted(cache.iterdir()) == sorted(path for path in found if path)


def test_second_gather_into_one_file_is_refused(demo_gguf: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    with (
        locked(resume_path(output), lambda: None),
        pytest.raises(InvalidInput, match="another process is gathering") as e,
    ):
        gather(demo_gguf, output, "text " * 1000, GatherOptions("x", 1, chunk_size=64))
    assert "-o" in e.value.hint
    assert not list(tmp_path.glob("x*"))


def test_lock_ends_with_a_killed_holder(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from turbopilot.base.atomic import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), lambda: None):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        waits: list[str] = []

        def kill() -> None:
            waits.append("waits")
            holder.send_signal(signal.SIGKILL)

        with locked(tmp_path / "x", kill):
            assert waits == ["waits"]
    assert not list(tmp_path.iterdir())


def test_lock_is_exclusive_while_holders_remove_their_files(tmp_path: Path) -> None:
    """Let several processes take turns, each of which removes the lock file that others wait for."""
    code = (
        "import pathlib, sys\n"
        "from turbopilot.base.atomic import locked\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for _ in range(100):\n"
        "    with locked(path, lambda: None):\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
    )
    (tmp_path / "x").write_text("0")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], env=env)
        for _ in range(4)
    ]
    assert [w.wait(60) for w in workers] == [0] * 4
    assert (tmp_path / "x").read_text() == "400"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_work_without_a_lock_where_none_is_possible(tmp_path: Path) -> None:
    (tmp_path / "x.lock").mkdir()
    with locked(tmp_path / "x", lambda: pytest.fail("nobody else works")):
        (tmp_path / "x").write_text("done")
    assert (tmp_path / "x").read_text() == "done"
