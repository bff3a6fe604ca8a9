"""Lines that `serve` prints at the start: the model family by its usual name, and the layout of prompts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve.decoder import FimTokens
from serve.llama.facts import model_family
from serve.model_choice import ModelChoice
from serve.prompt.fim import layout_text
from serve.settings import FimOrder, ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf

FIM = FimTokens(prefix=7, suffix=8, middle=9)


@pytest.mark.parametrize(
    ("order", "text"), [("psm", "psm: <7>…<8>…<9>"), ("spm", "spm: <7><8>…<9>…")]
)
def test_layout_names_the_special_tokens_in_order(order: FimOrder, text: str) -> None:
    assert layout_text(FIM, order, lambda token: f"<{token}>") == text


def test_model_without_fim_has_no_layout() -> None:
    assert layout_text(None, "psm", str) == "none: only the text before the cursor is used"


def test_converted_codegen_is_called_codegen(demo_gguf: Path, tmp_path: Path) -> None:
    assert read_gguf(demo_gguf).architecture == "phi2"
    assert model_family(read_gguf(demo_gguf)) == "CodeGen"
    file = Path(shutil.copy(demo_gguf, tmp_path / "a.gguf"))
    for unusable in ("", "\x1b[31m", "x" * 1000):
        set_metadata(file, {"turbopilot.source.architecture": unusable})
        assert model_family(read_gguf(file)) == "phi2"


def test_known_model_has_the_family_of_the_catalogue(demo_gguf: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(demo_gguf, tmp_path / "a.gguf"))
    set_metadata(file, {"general.name": "starcoder-q4_0"})
    choice = ModelChoice(str(file), named=(f"other={demo_gguf}",))
    options = with_models(ServerOptions(file), choice, Reporter())
    assert options.model.family == "StarCoder"
    assert options.of(options.more[0]).model.family == ""
