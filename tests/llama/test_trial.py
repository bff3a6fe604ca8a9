"""Model files that end llama.cpp's process: refused by the check of the header, or by the trial in a child."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.llama import load
from serve.settings import ModelOptions
from tests.support.hostile_gguf import changed, faults, number
from turbopilot.base import file_digest
from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama import trial
from turbopilot.llama.child import run_child
from turbopilot.verify.gguf_candidate import GgufCandidate

# The bundled model has these.
FAULTS = faults("phi2", n_layers=4, n_tokens=4096)
# llama.cpp asserts that phi2's heads are n_embd / n_head wide, which holds for no other architecture.
ABORTING = {"phi2.attention.key_length": number("u32", 34)}


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(trial.SKIP_VARIABLE, raising=False)
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_digest, "_SETTLED", -1.0)  # as if the files were old


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules of the children that were started."""
    found: list[str] = []

    def counted(module: str, *args: Any, **options: Any) -> Any:
        found.append(module)
        return run_child(module, *args, **options)

    monkeypatch.setattr(trial, "run_child", counted)
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_known_fault_is_rejected_by_the_check(demo_gguf: Path, tmp_path: Path, name: str) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf", *FAULTS[name])
    with pytest.raises(CorruptModel, match=r"x\.gguf: the model cannot be run: "):
        check_model(read_gguf(path))


@pytest.mark.parametrize("open_model", [GgufCandidate, lambda p: load(p, ModelOptions())])
def test_unknown_fault_is_found_in_a_child(
    demo_gguf: Path, tmp_path: Path, open_model: Callable[[Path], object]
) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf", ABORTING)
    check_model(read_gguf(path))
    with pytest.raises(CorruptModel, match=r"x\.gguf: .*signal 6: .*GGML_ASSERT") as caught:
        open_model(path)
    assert caught.value.hint


def test_good_file_is_tried_once_until_it_changes(
    demo_gguf: Path, tmp_path: Path, started: list[str]
) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf")
    for _ in range(2):
        trial.try_model(read_gguf(path))
    assert started == ["turbopilot.llama.trial_child"]
    changed(demo_gguf, path, {"general.name": None})
    trial.try_model(read_gguf(path))
    assert len(started) == 2


def test_failure_is_not_stored(demo_gguf: Path, tmp_path: Path, started: list[str]) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf", ABORTING)
    for n in (1, 2):
        with pytest.raises(CorruptModel):
            trial.try_model(read_gguf(path))
        assert len(started) == n


def test_digests_of_the_file_stay_stored(demo_gguf: Path, tmp_path: Path) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf")
    file_digest.file_digests([path], tmp_path / "cache")
    trial.try_model(read_gguf(path))
    known = file_digest._read(tmp_path / "cache" / "digests.json")[str(path)]
    assert len(known) == 3  # the file's state, its digest, and the trial


def test_hanging_file_is_corrupt(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf")
    monkeypatch.setattr(
        trial,
        "run_child",
        lambda *_, **__: run_child("tests.support.sandboxed_child", {"do": "spin", "seconds": 1}),
    )
    with pytest.raises(CorruptModel, match="computed no token in"):
        trial.try_model(read_gguf(path))


def test_file_that_needs_too_much_memory_is_corrupt(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(demo_gguf, tmp_path / "x.gguf")
    monkeypatch.setattr(trial, "_MEMORY", 0)
    monkeypatch.setattr(trial, "_MEMORY_OF_HEADER", 0)
    with pytest.raises(CorruptModel, match=r"x\.gguf: "):
        trial.try_model(read_gguf(path))


def test_trials_can_be_switched_off(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch, started: list[str]
) -> None:
    monkeypatch.setenv(trial.SKIP_VARIABLE, "1")
    trial.try_model(read_gguf(demo_gguf))
    assert started == []
