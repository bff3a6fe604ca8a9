"""Importance matrix files: reading, writing, damaged files, and matrices of other models."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from quantize.imatrix import Entry, Imatrix, check_matrix, read_imatrix, write_imatrix
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.formats.gguf.file import read_gguf

LLAMA_IMATRIX = os.environ.get("TURBOPILOT_TEST_LLAMA_IMATRIX", "")


def made() -> Imatrix:
    """Return a matrix with a dense weight, and a weight of three experts whose second saw no token."""
    rng = np.random.default_rng(0)
    dense = Entry(
        rng.random((1, 8), np.float32) * np.float32(1000), np.array([1024], dtype=np.int64)
    )
    experts = rng.random((3, 4), np.float32)
    experts[1] = 0
    return Imatrix(
        {
            "blk.0.attn_q.weight": dense,
            "blk.0.ffn_up_exps.weight": Entry(experts, np.array([7, 0, 3])),
        },
        ("café.txt", "b.txt"),
        2,
        512,
    )


def same(a: Imatrix, b: Imatrix) -> bool:
    return (a.datasets, a.n_chunks, a.chunk_size) == (b.datasets, b.n_chunks, b.chunk_size) and (
        {n: (e.sums.tobytes(), e.sums.shape, e.counts.tolist()) for n, e in a.entries.items()}
        == {n: (e.sums.tobytes(), e.sums.shape, e.counts.tolist()) for n, e in b.entries.items()}
    )


def test_written_matrix_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_imatrix(path, made(), {"turbopilot.imatrix.model": "m.gguf"})
    assert same(read_imatrix(path), made())
    header = read_gguf(path)
    assert list(header.metadata) == [
        "general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size",
        "turbopilot.imatrix.model",
    ]  # fmt: skip
    assert [(t.name, t.shape, t.type_name) for t in header.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", (8,), "F32"),
        ("blk.0.attn_q.weight.counts", (1,), "F32"),
        ("blk.0.ffn_up_exps.weight.in_sum2", (4, 3), "F32"),
        ("blk.0.ffn_up_exps.weight.counts", (1, 3), "F32"),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_means_match_llama_quantize() -> None:
    imatrix = made()
    means = imatrix.means()
    dense, experts = imatrix.entries.values()
    assert all(m.dtype == np.float32 and m.ndim == 1 for m in means.values())
    assert np.array_equal(means["blk.0.attn_q.weight"], dense.sums[0] / np.float32(1024))
    assert np.array_equal(
        means["blk.0.ffn_up_exps.weight"],
        np.concatenate([experts.sums[0] / np.float32(7), [1] * 4, experts.sums[2] / np.float32(3)]),
    )


def refused(path: Path, data: bytes, *words: str, error: type[InvalidInput] = InvalidInput) -> None:
    path.write_bytes(data)
    with pytest.raises(error) as e:
        read_imatrix(path)
    assert e.value.hint
    for word in (str(path), *words):
        assert word in str(e.value)


def test_truncated_file_is_rejected(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "whole.gguf", made())
    whole = (tmp_path / "whole.gguf").read_bytes()
    padding = -(4 * 3) % 32  # after the last tensor; the file is complete without it
    for n in range(len(whole) - padding):
        refused(tmp_path / "cut.gguf", whole[:n])


def test_changed_byte_raises_nothing_but_invalid_input(tmp_path: Path) -> None:
    """Change each byte in turn; the file is either read as a matrix or rejected."""
    write_imatrix(tmp_path / "whole.gguf", made())
    whole, path = (tmp_path / "whole.gguf").read_bytes(), tmp_path / "bent"
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            read_imatrix(path).means()
        except InvalidInput as e:
            assert str(path) in str(e)  # noqa: PT017 — many changes are harmless


def test_error_for_an_old_dat_file_explains_how_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    # i32 number of entries, then for each: i32 length, name, i32 chunks, i32 number of values, values
    path.write_bytes(struct.pack("<ii1siiff", 1, 1, b"a", 20, 2, 20.0, 40.0))
    with pytest.raises(InvalidInput, match=r"old\.dat: .*older \.dat format is not supported") as e:
        read_imatrix(path)
    assert "llama-imatrix --in-file old.dat -o old.gguf" in e.value.hint


Change = Callable[[gguf.GGUFWriter], None]
ONE = np.ones(4, np.float32)


def tensors(**named: np.ndarray) -> Change:
    def add(writer: gguf.GGUFWriter) -> None:
        for name, values in named.items():
            writer.add_tensor(name.replace("__", "."), values)

    return add


@pytest.mark.parametrize(
    ("metadata", "add", "words"),
    [
        ({}, tensors(a__in_sum2=ONE, a__counts=ONE[:1]), ["imatrix.chunk_count"]),
        ({"n": 1}, tensors(a__in_sum2=ONE, a__counts=ONE[:1]), ["imatrix.chunk_size"]),
        ({"n": 1, "c": 0}, tensors(a__in_sum2=ONE, a__counts=ONE[:1]), ["imatrix.chunk_size is 0"]),
        ({"n": 1, "c": 1}, tensors(a__weight=ONE), ["does not contain an importance matrix"]),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=ONE), ["a.counts is missing"]),
        ({"n": 1, "c": 1}, tensors(a__counts=ONE), ["a.in_sum2 is missing"]),
        (
            {"n": 1, "c": 1},
            tensors(a__in_sum2=ONE.astype(np.float16), a__counts=ONE),
            ["a.in_sum2 is F16"],
        ),
        (
            {"n": 1, "c": 1},
            tensors(a__in_sum2=ONE, a__counts=ONE[:3]),
            ["a:", "are not a multiple"],
        ),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=ONE, a__counts=-ONE), ["a.counts"]),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=ONE, a__counts=ONE * np.nan), ["a.counts"]),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=ONE, a__counts=ONE * 1e30), ["a.counts"]),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=-ONE, a__counts=ONE), ["a: a sum of squares"]),
        ({"n": 1, "c": 1}, tensors(a__in_sum2=ONE * np.inf, a__counts=ONE), ["a:", "not finite"]),
    ],
)
def test_inconsistent_gguf_is_rejected(
    tmp_path: Path, metadata: dict[str, int], add: Change, words: list[str]
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "made.gguf", "x")
    for key, value in metadata.items():
        writer.add_uint32({"n": "imatrix.chunk_count", "c": "imatrix.chunk_size"}[key], value)
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(tmp_path / "x.gguf", (tmp_path / "made.gguf").read_bytes(), *words)


def test_missing_files_folders_and_models_are_rejected(tmp_path: Path, demo_gguf: Path) -> None:
    for path in (tmp_path / "missing.gguf", tmp_path, demo_gguf):
        with pytest.raises(InvalidInput) as e:
            read_imatrix(path)
        assert str(path) in str(e.value)


def test_empty_matrix_and_too_long_names_are_rejected(tmp_path: Path) -> None:
    entry = Entry(np.ones((1, 2), np.float32), np.ones(1, np.int64))
    for imatrix in (
        Imatrix({}, ("x",), 1, 512),
        Imatrix({"a" * 56: entry}, ("x",), 1, 512),
    ):
        with pytest.raises(QuantizationError):
            write_imatrix(tmp_path / "x.gguf", imatrix)
    assert not list(tmp_path.iterdir())
    write_imatrix(tmp_path / "x.gguf", Imatrix({"a" * 55: entry}, (), 1, 512))
    assert list(read_imatrix(tmp_path / "x.gguf").entries) == ["a" * 55]


def test_matrix_of_another_model_is_rejected(demo_gguf: Path) -> None:
    header = read_gguf(demo_gguf)
    tensor = next(t for t in header.tensors if t.name == "blk.0.attn_output.weight")

    def of(name: str, columns: int) -> Imatrix:
        entry = Entry(np.ones((1, columns), np.float32), np.ones(1, np.int64))
        return Imatrix({name: entry}, ("x",), 1, 512)

    check_matrix(of(tensor.name, tensor.shape[0]), header)
    check_matrix(of(f"{tensor.name} (view)", 3), header)
    with pytest.raises(QuantizationError, match=r"blk\.0\.attn_output\.weight: 8 columns, the mod"):
        check_matrix(of(tensor.name, 8), header)
    with pytest.raises(
        QuantizationError, match=r"blk\.99\.attn_output\.weight: the model has no such tensor"
    ):
        check_matrix(of("blk.99.attn_output.weight", tensor.shape[0]), header)
    many = {f"blk.{i}.x": e for i in range(90, 99) for e in of("x", 1).entries.values()}
    with pytest.raises(QuantizationError, match=r"blk\.94\.x: .*\n  and 4 more"):
        check_matrix(Imatrix(many, (), 1, 512), header)


@pytest.mark.slow
@pytest.mark.skipif(
    not LLAMA_IMATRIX, reason="TURBOPILOT_TEST_LLAMA_IMATRIX is not set to a llama-imatrix"
)
def test_llama_imatrix_reads_our_file_and_writes_the_same_bytes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    write_imatrix(ours, made())
    run = [LLAMA_IMATRIX, "-m", "unused", "--in-file", str(ours)]
    subprocess.run([*run, "--show-statistics"], capture_output=True, check=True)
    subprocess.run([*run, "-o", str(theirs)], capture_output=True, check=True)
    assert theirs.read_bytes() == ours.read_bytes()
