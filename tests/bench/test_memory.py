"""Planned memory of a model, and the resident pages of a mapped file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from turbopilot.base.errors import CorruptModel
from turbopilot.bench import Setup, measure, planned
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.log import LlamaLog


@pytest.mark.parametrize("cache_type", ["F16", "Q8_0"])
def test_planned_memory_matches_measured_memory(demo_q4_0: Path, cache_type: str) -> None:
    setup = Setup(n_threads=1, n_ctx=512, n_batch=64, cache_type=cache_type)
    before, after = planned(read_gguf(demo_q4_0), setup), measure(demo_q4_0, setup).memory
    assert after
    assert before.buffers.model == 0
    # Without allocation llama.cpp logs the cache size in another format, with the same precision.
    assert before.buffers.kv == pytest.approx(after.buffers.kv, abs=12_000)
    assert before.buffers.compute == pytest.approx(after.buffers.compute, rel=0.02)
    assert before.buffers.output == after.buffers.output
    buffers = before.buffers
    whole = (
        before.now
        + buffers.kv
        + buffers.compute
        + buffers.output
        + read_gguf(demo_q4_0).tensor_bytes
    )
    assert after.needed == pytest.approx(whole, rel=0.05)


def test_planning_loads_no_weights(demo_gguf: Path, demo_q4_0: Path) -> None:
    large, small = (
        planned(read_gguf(p), Setup(n_threads=1, n_ctx=256)) for p in (demo_gguf, demo_q4_0)
    )
    assert abs(large.now - small.now) < 4_000_000 < demo_gguf.stat().st_size / 2


def test_planning_rejects_a_file_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(400))
    with pytest.raises(CorruptModel):
        planned(read_gguf(path))


def test_kv_cache_size_is_parsed_if_nothing_is_allocated() -> None:
    lines = [
        "llama_kv_cache: size =   24.00 MiB (  2048 cells,  12 layers,  1/1 seqs), K (f16):   12.00 MiB, V (f16): …\n",
        "llama_kv_cache: size =    6.00 MiB (   512 cells,  12 layers,  1/1 seqs), K (f16):    3.00 MiB, V (f16): …\n",
    ]  # fmt: skip
    log = LlamaLog()
    for line in lines:
        log.write(2, line)
    assert log.buffers().kv == 30 * 2**20
    log.write(2, "llama_kv_cache:        CPU KV buffer size =    30.00 MiB\n")
    assert log.buffers().kv == 30 * 2**20  # the same, logged twice


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux supports this")
def test_pages_of_a_mapped_file_are_dropped_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"\x01" * 40_000_000)
    # In a separate process, because memory that this process frees meanwhile would be counted.
    done = subprocess.run(
        [sys.executable, "-c", _DROP, str(path)], capture_output=True, text=True, check=True
    )
    before, dropped, again = map(int, done.stdout.split())
    assert before - dropped > 35_000_000
    assert again - dropped > 35_000_000


_DROP = """
import mmap, sys
from pathlib import Path
from turbopilot.bench.resident import drop_mapped, resident
path = Path(sys.argv[1])
with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    assert sum(mapped[::4096]) > 0
    before = resident().now
    assert drop_mapped([path])
    dropped = resident().now
    assert sum(mapped[::4096]) > 0
    print(before, dropped, resident().now)
"""
