"""Data types of the KV cache, with the real llama.cpp: memory, accuracy, and rejected types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters import convert
from serve.decoder import BatchItem
from serve.llama import load
from serve.settings import CACHE_TYPES, ModelOptions, find_cache_type
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import InvalidInput, ServeError

CODE = "def add(a, b):\n    return a + b\n\n\nclass Point:\n\tx = '→ naïve'\n"


@pytest.mark.parametrize("cache_type", ["q8_0", "q4_0"])
def test_quantized_cache_is_smaller_and_close_to_f16(demo_gguf: Path, cache_type: str) -> None:
    options = ModelOptions(threads=2, ctx=512, n_seq=1)
    decoder, _ = load(demo_gguf, options)
    other, report = load(demo_gguf, replace(options, cache_type=cache_type))
    # The bundled model has 4 layers with keys and values of width 256; blocks have 32 values.
    n_bytes = {"q8_0": 34, "q4_0": 18}[cache_type]
    assert report.kv_bytes == pytest.approx(2 * 512 * 4 * 256 / 32 * n_bytes, abs=2**14)
    assert f"KV cache {cache_type}, " in "\n".join(report.lines())
    tokens = decoder.tokenize(CODE, parse_special=False)
    batch = [BatchItem(t, i, 0, i == len(tokens) - 1) for i, t in enumerate(tokens)]
    f16, found = decoder.decode(batch)[0].copy(), other.decode(batch)[0].copy()
    decoder.close()
    other.close()
    distance = np.abs(found - f16).max() / f16.std()
    assert 0 < distance < {"q8_0": 0.1, "q4_0": 1}[cache_type]


def test_llama_cpp_loads_every_cache_type(demo_gguf: Path) -> None:
    assert find_cache_type("Q8_0") == "q8_0"
    for cache_type in CACHE_TYPES:
        decoder, report = load(demo_gguf, ModelOptions(threads=1, ctx=64, cache_type=cache_type))
        decoder.close()
        assert report.kv_bytes > 0
    with pytest.raises(InvalidInput, match="--cache-type q8_k"):
        load(demo_gguf, ModelOptions(cache_type="q8_k"))


def test_cache_type_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    """Use a model whose attention heads have width 16, not a multiple of the block size 32."""
    path = tmp_path / "narrow.gguf"
    folder = tiny_checkpoint("codegen", tmp_path / "codegen", n_head=16)
    convert(folder, path, dtype="f16")
    with pytest.raises(ServeError, match=r"q8_0 cache.*n_embd_head_k") as caught:
        load(path, ModelOptions(ctx=64, cache_type="q8_0"))
    assert "--cache-type f16" in caught.value.hint
