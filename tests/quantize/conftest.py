"""A small model, for work whose time grows with the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters import convert
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CodeGen of one narrow layer in F16; its rows fit every quantization type."""
    folder = tmp_path_factory.mktemp("small")
    checkpoint = tiny_checkpoint("codegen", folder / "checkpoint", n_layer=1, n_inner=256)
    return convert(checkpoint, folder / "small.gguf", dtype="f16").path
