"""Tests of certificates: any change of the file makes them invalid, and signing changes no tensor."""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import ConversionOptions, convert
from quantize import quantize
from tests.cli.test_inspect import string
from tests.support.signed import PLAIN, PREFIX, certificate_of, flip, tensor_data
from tests.support.verify_lab import logits_of
from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.formats.gguf import certificate as module
from turbopilot.formats.gguf.certificate import Certificate, Digests, check, digests, read, sign
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf, read_part
from turbopilot.verify.gguf_candidate import GgufCandidate


def test_signed_certificate_is_read_and_valid(demo_q4_0: Path, signed: Path) -> None:
    header, before = read_gguf(signed), read_gguf(demo_q4_0)
    assert read(before) is None
    assert check(before) == "none"
    assert read(header) == certificate_of(demo_q4_0)
    assert check(header) == "valid"
    assert tensor_data(signed) == tensor_data(demo_q4_0)
    assert list(header.metadata)[: len(before.metadata)] == list(before.metadata)
    added = set(header.metadata) - set(before.metadata)
    assert added == {PREFIX + f.name for f in fields(Certificate)} | {PREFIX + "format"}
    set_metadata(signed, remove=PREFIX)
    assert signed.read_bytes() == demo_q4_0.read_bytes()


def test_signed_file_returns_equal_logits(demo_q4_0: Path, signed: Path) -> None:
    with GgufCandidate(demo_q4_0) as before, GgufCandidate(signed) as after:
        ids = before.tokenize("def add(a, b):\n    return a + b\n")
        assert after.tokenize("def add(a, b):\n    return a + b\n") == ids
        assert np.array_equal(logits_of(before, ids), logits_of(after, ids))


def test_signing_again_replaces_the_certificate(signed: Path) -> None:
    first = signed.read_bytes()
    sign(signed, certificate_of(signed))
    assert signed.read_bytes() == first
    sign(signed, certificate_of(signed, reference="another", reference_files=(), passed=False))
    found = read(read_gguf(signed))
    assert found
    assert (found.reference, found.reference_files, found.passed) == ("another", (), False)
    assert check(read_gguf(signed)) == "valid"


def test_certificate_of_another_format_is_ignored_and_replaced(unsigned: Path) -> None:
    set_metadata(unsigned, {PREFIX + "format": 99, PREFIX + "from.the.future": 1})
    assert read(read_gguf(unsigned)) is None
    sign(unsigned, certificate_of(unsigned))
    assert PREFIX + "from.the.future" not in read_gguf(unsigned).metadata
    assert check(read_gguf(unsigned)) == "valid"


def test_change_of_any_tensor_is_detected(signed: Path) -> None:
    for t in read_gguf(signed).tensors:
        for at in (t.offset, t.offset + t.n_bytes - 1):
            flip(signed, at)
            assert check(read_gguf(signed)) == "tensors changed", t.name
            flip(signed, at)
    assert check(read_gguf(signed)) == "valid"


def test_change_of_any_other_key_is_detected(signed: Path) -> None:
    header, layout = read_part(signed)
    for key, (_, end) in layout.keys.items():
        if key.startswith(PREFIX):
            continue
        flip(signed, end - 1)
        assert check(read_gguf(signed)) == "metadata changed", key
        flip(signed, end - 1)
    assert isinstance(header.metadata["general.name"], str)
    for change in ({"general.name": header.metadata["general.name"] + "x"}, {"new": 1}):
        copy = Path(shutil.copy(signed, signed.with_name("copy.gguf")))
        set_metadata(copy, change)
        assert check(read_gguf(copy)) == "metadata changed"
    set_metadata(signed, remove="general.name")
    assert check(read_gguf(signed)) == "metadata changed"


def test_digest_covers_tensor_name_type_and_shape(tmp_path: Path) -> None:
    """Change a tensor's name, type and shape, with the same data."""

    def made(name: bytes, kind: int, *shape: int) -> str:
        info = string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
        raw = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
        path = tmp_path / "x.gguf"
        path.write_bytes(raw + bytes(-len(raw) % 32) + bytes(32))
        return digests(path).tensors

    all_of_them = [
        made(b"t", 0, 8), made(b"u", 0, 8), made(b"t", 26, 8), made(b"t", 0, 8, 1), made(b"t", 0, 4, 2),
        made(b"t", 0, 2, 4), made(b"tB", 1, 8), made(b"t", 30, 8),
    ]  # fmt: skip
    assert len(set(all_of_them)) == len(all_of_them)


def test_digests_do_not_depend_on_file_layout(
    demo_checkpoint: Path, split_model: Path, tmp_path: Path
) -> None:
    """Compare split and whole files, different alignments, and different orders of keys and tensors."""
    whole = convert(
        demo_checkpoint, tmp_path / "split-whole.gguf", ConversionOptions(name="split")
    ).path
    assert read_gguf(split_model).n_files > 1
    assert digests(split_model).tensors == digests(whole).tensors
    a = string(b"a") + struct.pack("<IQIQ", 1, 1, 0, 0)
    b = string(b"b") + struct.pack("<IQIQ", 1, 1, 0, 64)
    swapped = b.replace(struct.pack("<Q", 64), struct.pack("<Q", 0)), a[:-8] + struct.pack("<Q", 64)
    key, other = (string(k) + struct.pack("<II", 4, 1) for k in (b"k", b"a"))
    aligned = string(b"general.alignment") + struct.pack("<II", 4, 64)
    found = []
    for alignment, keys, infos, data in (
        (32, key + other, a + b, b"aaaa" + bytes(60) + b"bbbb"),
        (64, aligned + key + other, a + b, b"aaaa" + bytes(60) + b"bbbb"),
        (64, other + key + aligned, b"".join(swapped), b"bbbb" + bytes(60) + b"aaaa"),
    ):
        raw = b"GGUF" + struct.pack("<IQQ", 3, 2, 1 + alignment // 32) + keys + infos
        (tmp_path / "x.gguf").write_bytes(raw + bytes(-len(raw) % alignment) + data)
        found.append(digests(tmp_path / "x.gguf"))
    assert len(set(found)) == 1


def test_certificate_covers_all_parts_of_a_split_model(split_model: Path) -> None:
    named = sorted(split_model.parent.glob("split-*.gguf"))
    others = {p: p.read_bytes() for p in named[1:]}
    sign(split_model, certificate_of(split_model))
    assert others == {p: p.read_bytes() for p in named[1:]}, "only the first part is written"
    assert check(read_gguf(split_model)) == "valid"
    last = read_gguf(split_model).tensors[-1]
    assert last.path == named[-1]
    flip(last.path, last.offset)
    assert check(read_gguf(split_model)) == "tensors changed"
    with pytest.raises(InvalidInput, match="is part 2"):
        sign(named[1], PLAIN)


def test_merged_model_is_read_as_one_file(unsigned: Path) -> None:
    """Use split.count = 0, which llama.cpp's gguf-split writes to merged files."""
    sign(unsigned, certificate_of(unsigned))
    set_metadata(unsigned, {"split.count": 0})
    header = read_gguf(unsigned)
    assert (header.n_files, check(header)) == (1, "valid")


def test_certificate_of_another_file_is_rejected(unsigned: Path) -> None:
    found, raw = certificate_of(unsigned), unsigned.read_bytes()
    with pytest.raises(InvalidInput, match="changed since"):
        sign(unsigned, replace(found, metadata_sha256="0" * 64))
    with pytest.raises(InvalidInput, match="changed since"):
        sign(unsigned, replace(found, tensors_sha256=found.metadata_sha256))
    assert unsigned.read_bytes() == raw
    flip(unsigned, read_gguf(unsigned).tensors[0].offset)
    with pytest.raises(InvalidInput, match="changed since"):
        sign(unsigned, found)


@pytest.mark.parametrize(
    "change",
    [
        {"mean_kl": float("nan")}, {"candidate_perplexity": float("inf")}, {"positions": -1}, {"nmse": 1},
        {"positions": True}, {"passed": 1}, {"date": "yesterday"}, {"date": "2026-01-02"}, {"reference": None},
        {"versions": ["torch 2"]}, {"versions": (2,)}, {"tensors_sha256": "0" * 63}, {"metadata_sha256": "G" * 64},
    ],
)  # fmt: skip
def test_invalid_certificate_is_not_written(unsigned: Path, change: dict[str, Any]) -> None:
    raw = unsigned.read_bytes()
    with pytest.raises(
        InvalidInput, match=f"invalid value in the certificate: {next(iter(change))}"
    ):
        sign(unsigned, replace(certificate_of(unsigned), **change))
    assert unsigned.read_bytes() == raw


def test_file_in_the_hub_cache_is_not_signed(unsigned: Path, tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "blobs" / "0"
    blob.parent.mkdir(parents=True)
    shutil.copy(unsigned, blob)
    with pytest.raises(InvalidInput, match="Hub's cache"):
        sign(blob, certificate_of(blob))


@pytest.mark.parametrize("when", ["checking", "writing"])
def test_interrupted_signing_keeps_the_old_file(signed: Path, when: str) -> None:
    raw, n_tensors = signed.read_bytes(), read_gguf(signed).tensor_bytes

    def interrupt(done: int, total: int, what: str = "", /) -> None:
        assert total == n_tensors + len(raw)
        if done > (n_tensors if when == "writing" else 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sign(signed, certificate_of(signed, reference="new"), interrupt)
    assert signed.read_bytes() == raw
    assert [p.name for p in signed.parent.iterdir()] == ["m.gguf"]


def test_progress_never_decreases(unsigned: Path) -> None:
    seen: list[tuple[int, int]] = []
    sign(unsigned, certificate_of(unsigned), lambda d, n, what="": seen.append((d, n)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_truncated_file_has_no_digests(unsigned: Path) -> None:
    header = read_gguf(unsigned)
    os.truncate(unsigned, header.tensors[-1].offset)
    with pytest.raises(InvalidInput, match="became shorter"):
        digests(header)
    with pytest.raises(CorruptModel):
        digests(unsigned)


def test_quantizing_removes_the_certificate(demo_gguf: Path, tmp_path: Path) -> None:
    source, out, plain = (tmp_path / n for n in (demo_gguf.name, "out.gguf", "plain.gguf"))
    shutil.copy(demo_gguf, source)
    sign(source, certificate_of(source))
    quantize(source, out, "Q8_0")
    quantize(demo_gguf, plain, "Q8_0")
    signed, unsigned = (
        {k: v for k, v in read_gguf(p).metadata.items() if k != "turbopilot.quantize.source.sha256"}
        for p in (out, plain)
    )
    assert signed == unsigned
    assert not [k for k in signed if k.startswith(PREFIX)]
    assert digests(out).tensors == digests(plain).tensors
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        demo_gguf.name,
        "out.gguf",
        "plain.gguf",
    ]


def test_every_state_has_a_sentence() -> None:
    assert set(module.SENTENCES) == {"none", "valid", "tensors changed", "metadata changed"}
    assert PLAIN.digests == Digests("0" * 64, "0" * 64)
