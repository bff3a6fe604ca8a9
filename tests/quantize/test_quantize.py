"""Quantizing with llama.cpp: file types, error messages and cleanup."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from quantize import RECIPES, Recipe, find_recipe, quantize
from turbopilot.base.errors import (
    CorruptModel,
    InvalidInput,
    NotEnoughDisk,
    QuantizationError,
    TurboPilotError,
)
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import follow
from turbopilot.llama.log import LlamaLog

ROOT = Path(__file__).parents[2]
Array = npt.NDArray[Any]


def test_file_type_numbers_match_llama_cpp() -> None:
    theirs = {
        name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"): value
        for name, value in vars(llama_cpp).items()
        if name.startswith("LLAMA_FTYPE_")
    }
    # The quantizer cannot write these: the first is not a file type, and only converters write NVFP4.
    del theirs["GUESSED"], theirs["NVFP4"]
    assert {r.name: r.ftype for r in RECIPES} == theirs


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((r.name.lower(), r.name) for r in RECIPES),
        ("q4_0", "Q4_0"),
        ("Q4_K", "Q4_K_M"),
        ("q5_k", "Q5_K_M"),
        ("iq4_xs", "IQ4_XS"),
    ],
)
def test_file_type_names_in_any_case_and_short_forms(name: str, found: str) -> None:
    assert find_recipe(name).name == found


@pytest.mark.parametrize(
    ("name", "near"),
    [("q4_o", "Q4_0"), ("Q4KM", "Q4_K_M"), ("int8", "Q8_0"), ("", "Q4_K_M"), ("Q4_0 ", "Q4_0")],
)
def test_unknown_file_type_suggests_similar_names(name: str, near: str) -> None:
    with pytest.raises(InvalidInput, match="no such quantization type") as e:
        find_recipe(name)
    assert near in e.value.hint


def test_file_types_are_unique_and_have_advice() -> None:
    assert len({r.name for r in RECIPES}) == len({r.ftype for r in RECIPES}) == len(RECIPES)
    assert all(r.advice and 1 <= r.bits <= 32 for r in RECIPES)


@pytest.mark.parametrize(
    "name", ["Q8_0", "Q6_K", "Q5_1", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_S", "Q2_K", "BF16"]
)
def test_quantized_file_matches_its_report(demo_gguf: Path, tmp_path: Path, name: str) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out.gguf"
    report = quantize(demo_gguf, out, name, progress=lambda d, n, what="": seen.append((d, n)))
    assert report.recipe == name
    assert (report.source, report.path) == (demo_gguf, out)
    assert report.bytes_before == demo_gguf.stat().st_size
    assert report.bytes_after == out.stat().st_size
    assert report.types_before == read_gguf(demo_gguf).bytes_by_type()
    assert report.types_after == read_gguf(out).bytes_by_type()
    assert name == "BF16" or report.bytes_after < report.bytes_before
    assert report.bits_after >= find_recipe(name).bits
    assert seen == sorted(seen), "progress never goes back"
    assert name == "BF16" or report.bits_after < report.bits_before
    assert name.split("_K")[0] in next(iter(report.types_after)) or name in report.types_after
    assert seen[-1][0] == seen[-1][1] == len(read_gguf(out).tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_every_file_type_can_be_written(demo_gguf: Path, tmp_path: Path, recipe: Recipe) -> None:
    out = tmp_path / "out.gguf"
    if recipe.needs_imatrix:
        fails(QuantizationError, demo_gguf, out, recipe.name, "importance matrix")
    else:
        assert quantize(demo_gguf, out, recipe.name).recipe == recipe.name
        read_gguf(out)


def test_tensors_that_need_a_fallback_type_are_reported(tmp_path: Path) -> None:
    """Quantize rows of 64 weights to a type with blocks of 256, so that llama.cpp uses a fallback type."""
    names = [f"blk.{i}.{n}.weight" for i in (0, 1) for n in ("attn_q", "attn_v")]
    tensors = {name: np.ones((64, 64)) for name in names}
    write(tmp_path / "narrow.gguf", "llama", tensors, block_count=2)
    report = quantize(tmp_path / "narrow.gguf", tmp_path / "out.gguf", "Q4_K_S")
    assert "Q4_K" not in report.types_after
    assert [line.partition(":")[0] for line in report.fallbacks] == names


def test_file_names_with_spaces_and_accents(demo_gguf: Path, tmp_path: Path) -> None:
    source = tmp_path / "mon modèle ✓.gguf"
    source.symlink_to(demo_gguf)
    report = quantize(source, tmp_path / "plus petit ✓.gguf", "Q8_0")
    assert report.path.stat().st_size < demo_gguf.stat().st_size


def fails(error: type[TurboPilotError], source: Path, output: Path, name: str, *words: str) -> None:
    before = sorted(output.parent.iterdir())
    with pytest.raises(error) as e:
        quantize(source, output, name)
    for word in words:
        assert word in str(e.value) + e.value.hint
    assert sorted(output.parent.iterdir()) == before, "a file was left behind"


def test_missing_and_damaged_sources_are_rejected(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    fails(InvalidInput, tmp_path / "missing.gguf", out, "Q8_0", "no such file")
    (tmp_path / "text.gguf").write_text("hello")
    fails(CorruptModel, tmp_path / "text.gguf", out, "Q8_0", "text.gguf")
    (tmp_path / "short.gguf").write_bytes(demo_gguf.read_bytes()[:-5000])
    fails(CorruptModel, tmp_path / "short.gguf", out, "Q8_0", "outside")


def write(path: Path, architecture: str, tensors: Mapping[str, Array], **sizes: int) -> None:
    """Write a GGUF with these F32 tensors; its hyperparameters are those of a tiny Llama, updated with `sizes`."""
    writer = gguf.GGUFWriter(path, architecture)
    usual = {
        "context_length": 64, "embedding_length": 256, "feed_forward_length": 256, "block_count": 1,
        "attention__head_count": 4, "rope__dimension_count": 64,
    }  # fmt: skip
    for key, value in {**usual, **sizes}.items():
        writer.add_uint32(f"{architecture}.{key.replace('__', '.')}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WEIGHT = {"blk.0.attn_v.weight": np.ones((256, 256))}


@pytest.mark.parametrize(
    ("architecture", "tensors", "sizes", "words"),
    [
        ("alien", WEIGHT, {}, ["alien", "unknown"]),
        ("mamba", WEIGHT, {}, ["key not found", "ssm.conv_kernel"]),
        ("llama", WEIGHT, {"rope__dimension_count": 0}, ["n_rot"]),
        ("llama", {"blk.0.attn_v.weight": np.full((256, 256), np.nan)}, {}, ["nan"]),
        ("llama", {}, {}, ["no tensors"]),
    ],
)
def test_errors_contain_llama_cpps_reason(
    tmp_path: Path,
    architecture: str,
    tensors: Mapping[str, Array],
    sizes: dict[str, int],
    words: list[str],
) -> None:
    source = tmp_path / "odd.gguf"
    write(source, architecture, tensors, **sizes)
    fails(QuantizationError, source, tmp_path / "out.gguf", "Q8_0", "odd.gguf", *words)


@pytest.mark.parametrize(
    ("tensors", "sizes"),
    [
        (WEIGHT, {"block_count": 0}),
        (WEIGHT, {"block_count": 2**31}),
        (WEIGHT, {"expert_count": 4}),
    ],
)
def test_abort_of_llama_cpp_is_reported(
    tmp_path: Path, tensors: Mapping[str, Array], sizes: dict[str, int]
) -> None:
    """Use files that fail an assertion of llama.cpp, which must end only the child process."""
    write(tmp_path / "abort.gguf", "llama", tensors, **sizes)
    fails(
        QuantizationError, tmp_path / "abort.gguf", tmp_path / "out.gguf", "Q8_0",
        "was terminated by signal 6", "GGML_ASSERT",
    )  # fmt: skip


def test_foreign_output_of_the_child_is_logged(tmp_path: Path) -> None:
    """Log output of a debugger or a library that prints to the same pipe."""
    said = [
        "[New LWP 7]\n",
        '[2, "[   1/   2] a.weight - "]\n',
        "warning: \ufffd\n",
        '[2, "size = 1 MB\\n"]\n',
        '[3, "careful\\n"]\n[4, "bro',
    ]
    log, lines = LlamaLog(), list[str]()
    follow(StringIO("".join(said)), log, lambda told: pytest.fail(str(told)), lines.append)
    assert lines[0] == "[   1/   2] a.weight - "
    assert lines[1] == "[   1/   2] a.weight - size = 1 MB\n"
    assert (logging.WARNING, "careful") in log.lines
    assert not log.errors()
    assert "[New LWP 7]" in [line for _, line in log.lines]


def test_too_little_disk_space_is_reported_before_quantizing(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "turbopilot.base.atomic.shutil.disk_usage", lambda _: SimpleNamespace(free=1000)
    )
    fails(NotEnoughDisk, demo_gguf, tmp_path / "out.gguf", "Q8_0", "are free")


def test_unusable_sources_and_outputs_are_rejected(
    demo_gguf: Path, demo_q4_0: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    fails(QuantizationError, demo_q4_0, out, "Q8_0", "loses more accuracy")
    fails(QuantizationError, demo_gguf, out, "IQ2_XXS", "importance matrix")
    out.write_text("precious")
    fails(InvalidInput, demo_gguf, out, "Q8_0", "exists already", "--force")
    assert out.read_text() == "precious"
    (tmp_path / "link.gguf").symlink_to(demo_gguf)
    for same in (demo_gguf, tmp_path / "link.gguf"):
        with pytest.raises(InvalidInput, match="same file"):
            quantize(demo_gguf, same, "Q8_0", force=True)
    (tmp_path / "link.gguf").unlink()
    with pytest.raises(InvalidInput, match="no such folder"):
        quantize(demo_gguf, tmp_path / "no" / "out.gguf", "Q8_0")
    with pytest.raises(InvalidInput, match="is a folder"):
        quantize(demo_gguf, tmp_path, "Q8_0", force=True)
    quantize(demo_gguf, out, "Q8_0", force=True)
    assert out.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_run_leaves_no_output_and_no_child(
    demo_gguf: Path, tmp_path: Path, how: int
) -> None:
    """Let the parent end itself at the first tensor; the child keeps our pipe open until it exits."""
    out = tmp_path / "out.gguf"
    read_end, write_end = os.pipe()
    script = (
        "import functools, os, signal, subprocess\nfrom pathlib import Path\n"
        "from quantize import QuantizeOptions, quantize\n"
        f"subprocess.Popen = functools.partial(subprocess.Popen, pass_fds=[{write_end}])\n"
        f"def stop(*_): os.kill(os.getpid(), {int(how)}); signal.pause()\n"
        "options = QuantizeOptions(threads=1)\n"
        f"quantize(Path({str(demo_gguf)!r}), Path({str(out)!r}), 'Q2_K', options, progress=stop)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL, pass_fds=[write_end]
    )
    os.close(write_end)
    ended = child.wait()
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b""  # returns when the last process with the other end has exited
    assert ended == -how
    assert not out.exists()
    if how == signal.SIGINT:
        assert not list(tmp_path.iterdir())
    else:
        assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    quantize(demo_gguf, out, "Q8_0")  # a rerun starts clean
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
