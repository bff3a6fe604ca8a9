"""Parts of turbopilot.bench that need no model run: windows, statistics, llama.cpp's log, plots."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.settings import CACHE_TYPES as SERVE_CACHE_TYPES
from turbopilot.base.errors import InvalidInput
from turbopilot.bench import Divergence, Measured, Rate, Setup, SpeedTask
from turbopilot.bench.resident import parsed_status, resident
from turbopilot.bench.windows import cut, row_blocks
from turbopilot.formats.ggml_types import CACHE_TYPES, GGML_TYPES
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters
from turbopilot.llama.flash_attention import AUTO, SCORES_SHARE, flash_attention, scores_bytes
from turbopilot.llama.geometry import header_geometry
from turbopilot.llama.log import LlamaLog
from turbopilot.render.bench_plot import BenchRow, drawn

SVG = "{http://www.w3.org/2000/svg}"


def test_windows_are_spread_over_the_text() -> None:
    found = cut(range(100), 10, positions=12, begin=None)
    assert found.measured == range(5, 9)  # a token follows each
    assert [w[0] for w in found.ids] == [0, 30, 60]
    assert found.ids[1] == list(range(30, 40))
    assert found.positions == 12


def test_first_token_takes_a_place_in_each_window() -> None:
    found = cut(range(1, 100), 10, positions=1000, begin=0)
    assert {w[0] for w in found.ids} == {0}
    assert {len(w) for w in found.ids} == {10}
    assert [i for w in found.ids for i in w[1:]] == list(range(1, 100))


def test_short_text_is_one_window() -> None:
    found = cut(range(7), 512, positions=1, begin=None)
    assert (found.ids, found.measured) == ([list(range(7))], range(3, 6))
    with pytest.raises(InvalidInput, match="3 tokens"):
        cut(range(3), 512, positions=1, begin=None)


@given(
    st.integers(4, 400),
    st.integers(4, 50),
    st.integers(1, 500),
    st.sampled_from([None, 7]),
)
def test_windows_of_any_text_do_not_overlap(
    n: int, length: int, positions: int, begin: int | None
) -> None:
    found = cut(range(1000, 1000 + n), length, positions, begin)
    ids = [i for w in found.ids for i in (w if begin is None else w[1:])]
    assert len(set(ids)) == len(ids), "no token is read twice"
    assert set(ids) <= set(range(1000, 1000 + n))
    assert len({len(w) for w in found.ids}) == 1
    assert len(found.ids[0]) <= length
    assert found.positions <= positions or len(found.ids) == 1
    assert [i for b in row_blocks(found.measured, 3) for i in b] == list(found.measured)


def test_divergence_of_a_few_positions() -> None:
    kl, loss = np.array([0.0, 0.2, 0.4, 0.6]), np.array([1.0, 2.0, 1.0, 2.0])
    found = Divergence.of(kl, np.array([1.0, 1.0, 1.0, 0.0]), loss, loss + 0.1)
    assert (found.positions, found.max_kl, found.top1) == (4, 0.6, 0.75)
    assert found.median_kl == pytest.approx(0.3)
    assert found.mean_kl == pytest.approx(0.3)
    assert found.mean_kl_error == pytest.approx(math.sqrt(0.2 / 3) / 2)
    assert found.p90_kl == pytest.approx(0.54)
    assert found.top1_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert found.reference_perplexity.value == pytest.approx(math.exp(1.5))
    assert found.perplexity_ratio.value == pytest.approx(math.exp(0.1))
    assert found.perplexity_ratio.error == pytest.approx(0.0, abs=1e-12)


def test_divergence_of_one_position() -> None:
    one = np.array([1.0])
    found = Divergence.of(one, one, one, one)
    assert (found.mean_kl, found.mean_kl_error, found.top1_error) == (1.0, 0.0, 0.0)


def test_rate_median_spread_and_joining() -> None:
    rate = Rate(10, (3.0, 1.0, 2.0))
    assert (rate.median, rate.spread) == (2.0, 1.0)
    assert rate.joined(Rate(10, (9.0,))).samples == (3.0, 1.0, 2.0, 9.0)


def test_buffer_sizes_are_parsed_from_the_log() -> None:
    log = LlamaLog()
    for line in [
        "load_tensors:   CPU_Mapped model buffer size =   100.00 MiB\n",
        "load_tensors:   CPU_Mapped model buffer size =    50.00 MiB\n",  # another part
        "load_tensors:        CUDA0 model buffer size =    10.00 MiB\n",
        "llama_context:        CPU  output buffer size =     0.50 MiB\n",
        "llama_kv_cache:      CUDA0 KV buffer size =     4.00 MiB\n",
        "llama_kv_cache:        CPU KV buffer size =     2.00 MiB\n",
        "llama_memory_recurrent:        CPU RS buffer size =     1.00 MiB\n",
        "sched_reserve:        CPU compute buffer size =    30.00 MiB\n",
        "sched_reserve:        CPU compute buffer size =    20.00 MiB\n",  # logged again: replaces the first
        "llama_context: n_ctx = 512, buffer sizes are not in this line\n",
    ]:
        log.write(2, line)
    found = log.buffers()
    mib = 2**20
    assert (found.model, found.kv, found.compute, found.output) == (
        160 * mib, 7 * mib, 20 * mib, mib // 2,
    )  # fmt: skip
    assert found.places == {
        "CPU_Mapped": 150 * mib,
        "CUDA0": 14 * mib,
        "CPU": int(23.5 * mib),
    }
    assert LlamaLog().buffers().places == {}


def test_resident_memory_is_parsed_and_measured() -> None:
    told = parsed_status("Name:\tx\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\nRssFile:\t 7 kB\n")
    assert (told.peak, told.now, told.of_files) == (2048000, 1024000, 7168)
    block = bytearray(50_000_000)
    block[::4096] = b"x" * len(block[::4096])
    held = resident()
    assert held.peak >= held.now > 50_000_000


def test_setup_accepts_the_cache_types_of_serve() -> None:
    for name in SERVE_CACHE_TYPES:
        assert Setup(cache_type=name.upper()).cache_type == name.upper()


def test_cache_type_numbers_match_ggml() -> None:
    assert {n: name for name, n in CACHE_TYPES.items()} == {
        n: GGML_TYPES[n][0] for n in CACHE_TYPES.values()
    }


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Setup(n_ctx=0),
        lambda: Setup(n_threads=0),
        lambda: Setup(cache_type="Q3"),
        lambda: SpeedTask(n_prompt=0),
        lambda: SpeedTask(repeats=0),
    ],
)
def test_invalid_settings_are_rejected(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(InvalidInput):
        wrong()


def test_memory_decides_whether_attention_can_be_chosen(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, parameters = read_gguf(demo_gguf), ContextParameters(n_ctx=1024)
    scores = scores_bytes(header, 1024, 512) * SCORES_SHARE
    kv = header_geometry(header).kv_bytes(1024, "f16")
    assert kv > 1000
    for short, wanted in ((0, None), (1, AUTO)):
        memory = header.tensor_bytes + kv + scores - short
        monkeypatch.setattr("turbopilot.llama.flash_attention.total_bytes", lambda m=memory: m)
        assert flash_attention(header, parameters, uses_gpu=False) == wanted
    assert flash_attention(header, parameters, uses_gpu=True) == AUTO


def row(name: str, type_name: str, n_bytes: int, speed: float, kl: float | None) -> BenchRow:
    rate = Rate(64, (speed,))
    measured = Measured(
        Path(name), type_name, n_bytes, 4.5, 2048, 2, "F16", (), "0", "", rate, rate, None
    )
    ones = np.ones(3)
    return BenchRow(
        name, measured, None if kl is None else Divergence.of(ones * kl, ones, ones, ones)
    )


def test_plot_shows_size_divergence_and_speed() -> None:
    rows = [
        row("a<b>.gguf", "F16", 10_000_000_000, 10.0, 0.0),
        row("q8.gguf", "Q8_0", 5_000_000_000, 20.0, 1e-3),
        row("q4.gguf", "Q4_K", 3_000_000_000, 40.0, 1e-1),
        row("q4-other.gguf", "Q4_K", 2_500_000_000, 40.0, 2e-1),
    ]
    page = ET.fromstring(drawn(rows))
    circles = page.findall(f"{SVG}circle")
    x, y, r = (
        dict(zip("abcd", (float(c.attrib[k]) for c in circles), strict=True))
        for k in ("cx", "cy", "r")
    )
    assert x["a"] > x["b"] > x["c"] > x["d"], "larger is further right"
    assert y["a"] > y["b"] > y["c"] > y["d"], "less divergence is lower; none on the edge"
    assert (r["c"] / r["b"]) ** 2 == pytest.approx(2, rel=0.05), "the area is the speed"
    words = [t.text or "" for t in page.findall(f"{SVG}text")]
    assert "Q8_0, 20 tokens/s" in words
    assert "q4-other.gguf, 40 tokens/s" in words, "files of the same type are labelled by name"
    assert {"size, GB", "mean KL, nats"} <= set(words)


def test_plot_without_divergences_shows_speed() -> None:
    rows = [row("a.gguf", "F16", 1000, 10.0, None), row("b.gguf", "Q8_0", 500, 20.0, None)]
    page = ET.fromstring(drawn(rows))
    first, second = (float(c.attrib["cy"]) for c in page.findall(f"{SVG}circle"))
    assert first > second, "faster is higher"
    assert "tokens/s" in [t.text for t in page.findall(f"{SVG}text")]
