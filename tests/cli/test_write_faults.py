"""A failing operation on any file leaves nothing half-written, a clear error, and a next run that succeeds."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quantize.imatrix import GatherOptions, gather
from tests.support.faulty_files import Faults, injected
from tests.support.imatrix_lab import TEXT
from tests.support.old_ggml import old_gptj
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import TurboPilotError
from turbopilot.cli import app
from turbopilot.formats.gguf.edit import set_metadata

SAMPLES = 6  # failing operations of each command in the default suite
GEOMETRY = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, demo_gguf: Path) -> Path:
    """Folder with a source of each kind."""
    folder = tmp_path_factory.mktemp("sources")
    for family in ("codegen", "gptj"):
        tiny_checkpoint(family, folder / family, dtype="f16", **GEOMETRY)
    old_gptj(folder / "gptj", folder / "old.bin", "F16")
    shutil.copyfile(demo_gguf, folder / "m.gguf")
    for name, size in (("a", 32), ("b", 48)):
        options = GatherOptions("x", 1, chunk_size=size, threads=1)
        gather(demo_gguf, folder / f"matrix-{name}.gguf", TEXT, options)
    (folder / "text.txt").write_text(TEXT, "utf-8")
    return folder


COMMANDS = {
    "convert": ["convert", "codegen", "-o", "out/x", "--force"],
    "export": ["convert", "codegen", "--to", "gptj", "-o", "out/x", "--force"],
    "import": ["convert", "old.bin", "-o", "out/x", "--force"],
    "quantize": ["quantize", "m.gguf", "Q4_0", "--imatrix", "matrix-a.gguf", "-o", "out/x", "--force"],
    "imatrix": ["imatrix", "m.gguf", "--text", "text.txt", "--chunks", "1", "--ctx", "32", "-o", "out/x", "--force"],
    "merge": ["imatrix", "--in-file", "matrix-a.gguf", "--in-file", "matrix-b.gguf", "-o", "out/x", "--force"],
    "sign": [],
}  # fmt: skip
Contents = dict[str, bytes]


def contents(folder: Path) -> Contents:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kept(folder: Path) -> Contents:
    """Return the contents without a replaced folder that could not be removed."""
    return {n: data for n, data in contents(folder).items() if ".old/" not in n}


def run(verb: str) -> tuple[int, str]:
    """Run a command as a user does; return its exit code and error. No other exception may leave it."""
    if verb == "sign":
        try:
            set_metadata(Path("out/x"), {"turbopilot.verified.by": "x" * 100})
        except (TurboPilotError, OSError) as e:
            return getattr(e, "exit_code", 1), f"error: {e}"
        return 0, ""
    result = CliRunner().invoke(app, COMMANDS[verb])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


class Lab:
    """One command with sources and output in the current folder."""

    def __init__(self, verb: str, sources: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.verb, self.folder, self.patch = verb, folder, patch
        self.sources, self.out = sources, folder / "out"
        patch.chdir(folder)
        for path in sources.iterdir():
            (folder / path.name).symlink_to(path)
        # relative paths, and those that a command resolves
        self.names = (str(folder), str(sources), "out", *(p.name for p in sources.iterdir()))
        self.reset()
        counting = Faults(self.names, 0)
        with injected(patch, counting):
            assert run(verb)[0] == 0, "it fails without a fault"
        self.total, self.wanted = counting.count, contents(self.out)

    def reset(self) -> None:
        """Put an earlier output in place."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        if self.verb == "export":
            (self.out / "x").mkdir()
            (self.out / "x" / "config.json").write_text("{}")
        elif self.verb == "sign":
            shutil.copyfile(self.sources / "m.gguf", self.out / "x")
        else:
            (self.out / "x").write_bytes(b"old")

    def fails_cleanly(self, nth: int, error: int, *, lasting: bool) -> None:
        """Let one operation fail: either it does not matter, or the old output stays and the error is clear."""
        self.reset()
        before, inputs = contents(self.out), contents(self.sources)
        faults = Faults(self.names, nth, error, lasting=lasting)
        with injected(self.patch, faults):
            code, message = run(self.verb)
        where = f"{self.verb}: {faults.failed} ({nth} of {self.total}): {message}"
        assert contents(self.sources) == inputs, where
        if code == 0:
            assert kept(self.out) == self.wanted, where
            return
        assert faults.failed, where
        assert code in range(1, 9), where
        assert any(line.startswith("error: ") for line in message.splitlines()), where
        assert "Traceback" not in message, where
        assert any(name in message for name in self.names), f"names no file: {where}"
        found = {n: data for n, data in contents(self.out).items() if n != "x.resume"}
        # An old folder that cannot be renamed back stays beside the output; a whole output may not be readable.
        aside = {re.sub(r"^x\.\w+\.old/", "x/", n): data for n, data in found.items()}
        assert before in (found, aside) or found == self.wanted, where
        self.reset()
        assert run(self.verb)[0] == 0, where
        assert contents(self.out) == self.wanted, where


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lab:
    return Lab(request.param, sources, tmp_path, monkeypatch)


@pytest.mark.parametrize("lab", COMMANDS, indirect=True)
def test_failing_operation_leaves_the_old_output(lab: Lab) -> None:
    """Try operations spread evenly over the command, with a full disk and with a broken one in turn."""
    for i in range(SAMPLES):
        nth = 1 + (lab.total - 1) * i // (SAMPLES - 1)
        lab.fails_cleanly(nth, [errno.ENOSPC, errno.EIO][i % 2], lasting=i % 2 == 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lab", COMMANDS, indirect=True)
@pytest.mark.parametrize(("error", "lasting"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_every_failing_operation_leaves_the_old_output(lab: Lab, error: int, lasting: bool) -> None:
    for nth in range(1, lab.total + 1):
        lab.fails_cleanly(nth, error, lasting=lasting)
