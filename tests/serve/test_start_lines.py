"""Lines that `serve` prints at the start: the model family by its usual name."""

from __future__ import annotations

import shutil
from pathlib import Path

from serve.llama.facts import model_family
from serve.model_choice import ModelChoice
from serve.settings import ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf


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
    assert options.model.known_fim == "starcoder"
    other = options.of(options.more[0]).model
    assert (other.family, other.known_fim) == ("", "")
