"""Quantizing through llama.cpp: its types, its words, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from quantize import RECIPES, find_recipe, quantize
from turbopilot.errors import CorruptModel, InvalidInput, QuantizationError, TurboPilotError
from turbopilot.gguf_file import read_gguf

ROOT = Path(__file__).parents[1]


def test_the_numbers_are_llama_cpps() -> None:
    theirs = {
        name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): value
        for name, value in vars(llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_")
    }
    # GUESSED is no type; NVFP4 is written by converters only: llama.cpp's quantizer refuses it
    del theirs["GUESSED"], theirs["NVFP4"]
    assert {r.name: r.ftype for r in RECIPES} == theirs


@pytest.mark.parametrize(
    ("name", "found"),
    [("q4_0", "Q4_0"), ("Q4_K", "Q4_K_M"), ("q5_k", "Q5_K_M"), ("iq4_xs", "IQ4_XS")],
)
def test_names_in_any_case_and_shorthands(name: str, found: str) -> None:
    assert find_recipe(name).name == found


def test_an_unknown_type_offers_near_ones() -> None:
    with pytest.raises(InvalidInput) as e:
        find_recipe("q4_o")
    assert "Q4_0" in e.value.hint


@pytest.mark.parametrize(
    "name", ["Q8_0", "Q6_K", "Q5_1", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_S", "Q2_K", "BF16"]
)
def test_types(demo_gguf: Path, tmp_path: Path, name: str) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out.gguf"
    report = quantize(demo_gguf, out, name, progress=lambda d, n, what="": seen.append((d, n)))
    assert report.recipe == name
    assert report.bytes_after == out.stat().st_size
    assert name == "BF16" or report.bits_after < report.bits_before
    assert name.split("_K")[0] in next(iter(report.types_after)) or name in report.types_after
    assert seen[-1][0] == seen[-1][1] == len(read_gguf(out).tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def fails(error: type[TurboPilotError], source: Path, output: Path, name: str, *words: str) -> None:
    before = sorted(output.parent.iterdir())
    with pytest.raises(error) as e:
        quantize(source, output, name)
    for word in words:
        assert word in str(e.value) + e.value.hint
    assert sorted(output.parent.iterdir()) == before, "something was left behind"


def test_files_that_are_no_gguf(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    fails(InvalidInput, tmp_path / "missing.gguf", out, "Q8_0", "no such file")
    (tmp_path / "text.gguf").write_text("hello")
    fails(CorruptModel, tmp_path / "text.gguf", out, "Q8_0", "text.gguf")
    (tmp_path / "short.gguf").write_bytes(demo_gguf.read_bytes()[:-5000])
    fails(CorruptModel, tmp_path / "short.gguf", out, "Q8_0", "outside")


def test_llama_cpps_own_words(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "alien.gguf", "alien")
    writer.add_tensor("w", np.ones((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fails(
        QuantizationError,
        tmp_path / "alien.gguf",
        tmp_path / "out.gguf",
        "Q8_0",
        "alien",
        "unknown",
    )


def test_refusals(demo_gguf: Path, demo_q4_0: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    fails(QuantizationError, demo_q4_0, out, "Q8_0", "lose twice")
    fails(QuantizationError, demo_gguf, out, "IQ2_XXS", "importance matrix")
    out.write_text("precious")
    fails(InvalidInput, demo_gguf, out, "Q8_0", "exists already", "--force")
    assert out.read_text() == "precious"
    with pytest.raises(InvalidInput, match="same file"):
        quantize(demo_gguf, demo_gguf, "Q8_0", force=True)
    quantize(demo_gguf, out, "Q8_0", force=True)
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_and_nobody(demo_gguf: Path, tmp_path: Path, how: int) -> None:
    """The parent ends itself at the first tensor; the quantizing child holds our pipe until it is gone."""
    out = tmp_path / "out.gguf"
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom quantize import quantize\n"
        f"def stop(*_): os.kill(os.getpid(), {int(how)}); signal.pause()\n"
        f"quantize(Path({str(demo_gguf)!r}), Path({str(out)!r}), 'Q2_K', threads=1, progress=stop)\n"
    )
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL, pass_fds=[write_end]
    )
    os.close(write_end)
    assert child.wait() != 0
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b""  # ends when the last holder of the other end has ended
    assert not out.exists()
    if how == signal.SIGINT:
        assert not list(tmp_path.iterdir())
