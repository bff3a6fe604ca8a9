"""A new family needs one file and one line: here `tests/support/new_family.py`, and an entry in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from converters import convert, registry
from tests.support import new_family, tiny
from tests.support.verify_lab import verdict
from turbopilot.base.errors import UnsupportedModel

FAMILIES = Path(registry.__file__).parent / "families"
PROMPTS = ["def f(x):\n    return x + 12345\n" * 8, "class A:\n\tpass\n" * 10]


def without_rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != "rotary_dim"}


@pytest.mark.parametrize("tied", [True, False])
def test_new_family_needs_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    gpt2 = tiny.TinyFamily("GPT2", tiny._plain, without_rotary, head="LMHeadModel")
    monkeypatch.setattr(tiny, "FAMILY", {"gpt2": gpt2})
    folder = tiny.tiny_checkpoint("gpt2", tmp_path / "gpt2", tie_word_embeddings=tied)
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel"):
        convert(folder, tmp_path / "out.gguf")
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, new_family.SPEC))
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    report = verdict(tmp_path / "out.gguf", folder, PROMPTS)
    assert report.passed, report.failures


@pytest.mark.parametrize("path", sorted(FAMILIES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_family_file_is_short_and_cites_its_source(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 90
    assert "Source:" in text or path.stem == "common"
