"""Model files that are truncated or overwritten while they are served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.llama.mapped_files import MappedFiles, should_map
from tests.support.serving import ROOT, ask, serve_command, wait_until_ready
from turbopilot.base.errors import ModelChanged
from turbopilot.formats.gguf.file import read_gguf

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows locks mapped files")


@pytest.fixture
def model(demo_gguf: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copy(demo_gguf, tmp_path / "model.gguf"))
    path.chmod(0o600)
    return path


@contextmanager
def serving(model: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    arguments = serve_command(
        "--port", "0", "--no-ahead", str(model)
    )  # it computes nothing while idle
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process, wait_until_ready(process)[1]
        finally:
            process.kill()


def complete(port: int, prompt: str) -> tuple[int, str]:
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
    status, _, data = ask(port, "POST", "/v1/completions", body)
    return status, data.decode()


def test_truncated_file_returns_503_and_the_server_stays(model: Path) -> None:
    with serving(model) as (process, port):
        assert complete(port, "def add(a, b):")[0] == 200
        os.truncate(model, 4096)
        for prompt in ("class A:", "import os"):
            status, text = complete(port, prompt)
            assert status == 503
            assert "was changed while it is in use" in text
        status, _, data = ask(port, "GET", "/health")
        assert (status, json.loads(data)["status"]) == (503, "failed")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0
        assert err.count("completions are no longer possible") == 1
        assert "Traceback" not in err


def test_file_that_others_can_write_is_not_mapped(model: Path) -> None:
    model.chmod(0o666)
    with serving(model) as (_, port):
        assert complete(port, "def add(a, b):")[0] == 200
        os.truncate(model, 0)
        assert complete(port, "class A:")[0] == 200


@pytest.mark.parametrize(
    ("mode", "mapped"),
    [(0o600, True), (0o644, True), (0o444, True), (0o646, False), (0o666, False)],
)
def test_file_is_mapped_if_only_its_user_can_write_it(model: Path, mode: int, mapped: bool) -> None:
    header = read_gguf(model)
    model.chmod(mode)
    assert should_map(header) is mapped


def test_file_of_another_user_or_group_is_not_mapped(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = read_gguf(model)
    model.chmod(0o664)
    assert should_map(header)
    with monkeypatch.context() as m:
        m.setattr(os, "getegid", lambda: 12345)
        assert not should_map(header)
    if os.geteuid():
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert not should_map(header)


def test_file_larger_than_memory_is_mapped(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.chmod(0o666)
    monkeypatch.setattr("serve.llama.mapped_files.total_bytes", lambda: 1000)
    assert should_map(read_gguf(model))


def test_changes_of_a_mapped_file_are_noticed(model: Path) -> None:
    mapped = MappedFiles(read_gguf(model))
    mapped.check()
    with model.open("r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"x")
    os.utime(
        model, ns=(0, 0)
    )  # the clock of a file system may be too coarse to show a change at once
    with pytest.raises(ModelChanged, match=r"model\.gguf") as caught:
        mapped.check()
    assert "rename" in caught.value.hint
    mapped.close()


def test_replaced_or_deleted_file_is_not_a_change(model: Path) -> None:
    mapped = MappedFiles(read_gguf(model))
    new = model.with_name("new")
    new.write_bytes(b"other")
    new.replace(model)
    mapped.check()
    model.unlink()
    mapped.check()
    mapped.close()
