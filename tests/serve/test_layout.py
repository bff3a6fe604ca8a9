"""Layout of sequences in the KV cache (split or shared, depending on memory), and size of the prefix cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.footprint import (
    MOST_PREFIX_BYTES,
    KvLayout,
    choose_layout,
    choose_prefix_cache,
)
from turbopilot.llama.geometry import header_geometry

GB = 10**9


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The machine's memory in bytes, as a list of one item that tests can change."""
    size = [64 * GB]
    monkeypatch.setattr("turbopilot.llama.footprint.total_bytes", lambda: size[0])
    return size


def test_kv_bytes_depend_on_the_cache_type(demo_gguf: Path) -> None:
    # The bundled model has 4 layers with keys and values of width 256.
    header = read_gguf(demo_gguf)
    assert header_geometry(header).kv_bytes(1, "f16") == 2 * 4 * 256 * 2
    assert header_geometry(header).kv_bytes(1, "q8_0") == 2 * 4 * 256 * 34 // 32


def test_kv_cache_is_split_if_memory_allows(demo_gguf: Path, memory: list[int]) -> None:
    geometry = header_geometry(read_gguf(demo_gguf))
    assert choose_layout(geometry, 1000, None, "f16") == KvLayout(4, is_split=True)
    assert KvLayout(4, is_split=True).n_cells(1000) == 4 * 1024
    memory[0] = 3 * 1000 * 4096 * 20 - 1
    assert choose_layout(geometry, 1000, None, "f16") == KvLayout(4, is_split=False)
    assert KvLayout(4, is_split=False).n_cells(1000) == 1000
    assert choose_layout(geometry, 1000, 1, "f16") == KvLayout(1, is_split=False)


def test_prefix_cache_gets_a_share_of_free_memory(demo_gguf: Path, memory: list[int]) -> None:
    weights = read_gguf(demo_gguf).tensor_bytes
    assert choose_prefix_cache(weights + GB) == MOST_PREFIX_BYTES
    memory[0] = 3 * GB
    assert choose_prefix_cache(weights + GB) == (2 * GB - weights) // 16
    memory[0] = GB + 300_000_000
    assert choose_prefix_cache(weights + GB) == 0
