"""The order of prefix and suffix that a checkpoint names, from config.json to the server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from converters import ConversionOptions, convert
from serve.llama import load
from serve.settings import ModelOptions
from turbopilot.base.errors import UnsupportedModel
from turbopilot.formats.gguf.file import read_gguf


def checkpoint(demo: Path, target: Path, order: object) -> Path:
    shutil.copytree(demo, target)
    file = target / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["fim_order"] = order
    if order is None:
        del config["fim_order"]
    file.write_text(json.dumps(config), "utf-8")
    return target


@pytest.mark.parametrize(("named", "served"), [("spm", "spm"), ("psm", "psm"), (None, "starcoder")])
def test_order_of_a_checkpoint_reaches_the_server(
    demo_checkpoint: Path, tmp_path: Path, named: str | None, served: str
) -> None:
    path = tmp_path / "model.gguf"
    convert(checkpoint(demo_checkpoint, tmp_path / "source", named), path, dtype="f16")
    assert read_gguf(path).metadata.get("turbopilot.fim_order") == named
    decoder, _ = load(path, ModelOptions(threads=1, ctx=128, n_seq=1))
    assert decoder.fim
    assert decoder.fim.chosen.name == served
    decoder.close()


@pytest.mark.parametrize("order", ["msp", 1, ["spm"]])
def test_unknown_order_is_rejected(demo_checkpoint: Path, tmp_path: Path, order: object) -> None:
    source = checkpoint(demo_checkpoint, tmp_path / "source", order)
    with pytest.raises(UnsupportedModel, match="fim_order"):
        convert(source, tmp_path / "model.gguf", ConversionOptions())
    assert not (tmp_path / "model.gguf").exists()
