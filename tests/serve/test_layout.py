"""Layout of sequences in the KV cache (split or shared, depending on memory), and size of the prefix cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve.llama.facts import plan, prefix_bytes
from serve.models.loading import make_pool
from serve.pool_options import PoolOptions
from serve.settings import ModelOptions, ServerOptions
from turbopilot.base import machine
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.footprint import (
    LEAST_PREFIX_BYTES,
    PREFIX_SHARE,
    SPLIT_SHARE,
    KvLayout,
    choose_layout,
    choose_prefix_cache,
)
from turbopilot.llama.geometry import header_geometry

GB = 10**9


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The machine's free memory in bytes, as a list of one item that tests can change."""
    size = [64 * GB]
    for module in ("turbopilot.llama.footprint", "turbopilot.llama.fitting", "serve.llama.facts"):
        monkeypatch.setattr(f"{module}.free_bytes", lambda: size[0])
    return size


def test_kv_bytes_depend_on_the_cache_type(demo_gguf: Path) -> None:
    # The bundled model has 4 layers with keys and values of width 256.
    header = read_gguf(demo_gguf)
    assert header_geometry(header).kv_bytes(1, "f16") == 2 * 4 * 256 * 2
    assert header_geometry(header).kv_bytes(1, "q8_0") == 2 * 4 * 256 * 34 // 32


def test_kv_cache_is_split_if_memory_allows(demo_gguf: Path, memory: list[int]) -> None:
    geometry = header_geometry(read_gguf(demo_gguf))
    each = 1000 * 4096  # bytes of a sequence of 1,000 tokens
    assert choose_layout(geometry, GB, [1000], None, "f16") == (1000, KvLayout(4, is_split=True))
    assert KvLayout(4, is_split=True).n_cells(1000) == 4 * 1024
    memory[0] = GB + 4 * each * SPLIT_SHARE
    assert choose_layout(geometry, GB, [1000], None, "f16") == (1000, KvLayout(4, is_split=True))
    memory[0] -= 1
    assert choose_layout(geometry, GB, [1000], None, "f16") == (1000, KvLayout(4))
    assert KvLayout(4).n_cells(1000) == 1000
    assert choose_layout(geometry, GB, [1000], 1, "f16") == (1000, KvLayout(1))


def test_context_is_reduced_before_sequences_share_a_pool(
    demo_gguf: Path, memory: list[int]
) -> None:
    geometry = header_geometry(read_gguf(demo_gguf))
    contexts = [8192, 4096, 2048]
    for n_ctx in contexts:
        memory[0] = 4 * n_ctx * 4096 * SPLIT_SHARE
        found = choose_layout(geometry, 0, contexts, None, "f16")
        assert found == (n_ctx, KvLayout(4, is_split=True))
    memory[0] //= 2
    assert choose_layout(geometry, 0, contexts, None, "f16") == (8192, KvLayout(4))


def test_given_context_is_never_reduced(demo_gguf: Path, memory: list[int]) -> None:
    memory[0] = 0
    header = read_gguf(demo_gguf)
    need = plan(header, ModelOptions(ctx=1024)).need
    assert (need.n_ctx, need.layout) == (1024, KvLayout(4))


def test_prefix_cache_gets_a_share_of_free_memory(memory: list[int]) -> None:
    assert choose_prefix_cache(GB) == 63 * GB // PREFIX_SHARE
    memory[0] = GB + LEAST_PREFIX_BYTES * PREFIX_SHARE
    assert choose_prefix_cache(GB) == LEAST_PREFIX_BYTES
    memory[0] -= PREFIX_SHARE
    assert choose_prefix_cache(GB) == 0


def test_default_prefix_cache_respects_the_memory_of_all_models(memory: list[int]) -> None:
    assert prefix_bytes(GB, 1000 * GB, 1) == 63 * GB // PREFIX_SHARE
    assert prefix_bytes(GB, 1000 * GB, 3) == 63 * GB // PREFIX_SHARE // 3
    assert prefix_bytes(GB, 2 * GB, 1) == GB // PREFIX_SHARE
    assert prefix_bytes(GB, GB // 2, 1) == 0
    memory[0] = GB
    assert prefix_bytes(GB, 1000 * GB, 1) == 0


def test_model_fits_a_memory_limit_with_its_default_prefix_cache(
    demo_gguf: Path, memory: list[int]
) -> None:
    taken = plan(read_gguf(demo_gguf), ModelOptions()).cpu.total
    pool = PoolOptions(memory=taken + 100)
    make_pool(ServerOptions(demo_gguf, pool=pool), lambda _: None)
    smaller = ServerOptions(demo_gguf, pool=PoolOptions(memory=taken - 1))
    with pytest.raises(InvalidInput, match="--model-memory"):
        make_pool(smaller, lambda _: None)


def test_free_memory_respects_the_limit_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    2000 kB\n")
    group = tmp_path / "group"
    group.mkdir()
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("300000\n")
    monkeypatch.setattr(machine, "_MEMINFO", meminfo)
    monkeypatch.setattr(machine, "_limit_files", lambda: [])
    assert machine.free_bytes() == 2000 * 1024
    monkeypatch.setattr(machine, "_limit_files", lambda: [group / "memory.max"])
    assert machine.free_bytes() == 700_000
    monkeypatch.setattr(machine, "_MEMINFO", tmp_path / "none")
    assert machine.free_bytes() == machine.total_bytes() // 2
