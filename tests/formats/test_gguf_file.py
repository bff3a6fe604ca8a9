"""Tests of the GGUF header reader: good files are read correctly, bad ones raise only CorruptModel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.file import read_gguf

KEYS: dict[str, object] = {
    "x.bool": True, "x.int": 7, "x.float": 0.5, "x.text": "naïve ✓", "x.ints": [1, 2, 3], "x.texts": ["a", "", "é"],
}  # fmt: skip
Kind = gguf.GGUFValueType
INTEGERS = {
    Kind.UINT8: (0, 2**8 - 1), Kind.INT8: (-(2**7), 2**7 - 1),
    Kind.UINT16: (0, 2**16 - 1), Kind.INT16: (-(2**15), 2**15 - 1),
    Kind.UINT32: (0, 2**32 - 1), Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.UINT64: (0, 2**64 - 1), Kind.INT64: (-(2**63), 2**63 - 1),
}  # fmt: skip
SCALARS = {
    **{kind: st.integers(low, high) for kind, (low, high) in INTEGERS.items()},
    Kind.BOOL: st.booleans(),
    Kind.FLOAT32: st.floats(width=32, allow_nan=False),
    Kind.FLOAT64: st.floats(allow_nan=False),
    Kind.STRING: st.text(max_size=12),
}


@st.composite
def values(draw: st.DrawFn) -> tuple[gguf.GGUFValueType, gguf.GGUFValueType | None, object]:
    """Draw a value with its type and, for an array, the type of its elements."""
    kind = draw(st.sampled_from(sorted(SCALARS)))
    if draw(st.booleans()):
        return kind, None, draw(SCALARS[kind])
    # The writer leaves out empty arrays.
    return Kind.ARRAY, kind, draw(st.lists(SCALARS[kind], min_size=1, max_size=5))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Valid file with two tensors and every kind of value."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "x")
    writer.add_bool("x.bool", True)
    writer.add_uint32("x.int", 7)
    writer.add_float32("x.float", 0.5)
    writer.add_string("x.text", "naïve ✓")
    writer.add_array("x.ints", [1, 2, 3])
    writer.add_array("x.texts", ["a", "", "é"])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(4, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_type_table_matches_gguf_package() -> None:
    for kind in gguf.GGMLQuantizationType:
        assert GGML_TYPES[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])


def test_header_of_valid_file_is_parsed(small: Path) -> None:
    header = read_gguf(small)
    assert header.architecture == "x"
    assert {k: header.metadata[k] for k in KEYS} == KEYS
    one, two = header.tensors
    assert (one.name, one.shape, one.type_name, one.n_bytes) == ("one", (3, 2), "F32", 24)
    raw = small.read_bytes()
    assert np.frombuffer(raw[two.offset : two.offset + two.n_bytes], "<f2").tolist() == [0, 1, 2, 3]
    assert header.n_weights == 10
    assert header.bytes_by_type() == {"F32": 24, "F16": 8}
    assert header.main_type() == "F32"


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(st.text(min_size=1, max_size=8).map("x.".__add__), values(), max_size=6))
def test_all_value_types_are_read(
    tmp_path: Path, entries: dict[str, tuple[gguf.GGUFValueType, gguf.GGUFValueType | None, object]]
) -> None:
    path = tmp_path / "values.gguf"
    writer = gguf.GGUFWriter(path, "x")
    for key, (kind, element, value) in entries.items():
        writer.add_key_value(key, value, kind, sub_type=element)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    got = read_gguf(path).metadata
    assert {k: v for k, v in got.items() if k.startswith("x.")} == {
        key: value for key, (_, _, value) in entries.items()
    }


@pytest.mark.parametrize("which", ["demo_gguf", "demo_q4_0"])
def test_real_header_matches_ggufs_reader(request: pytest.FixtureRequest, which: str) -> None:
    path: Path = request.getfixturevalue(which)
    header, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert [(t.name, t.shape, t.type_name, t.offset, t.n_bytes) for t in header.tensors] == [
        (t.name, tuple(map(int, t.shape)), t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    ]
    assert [k for k in theirs.fields if not k.startswith("GGUF.")] == list(header.metadata)
    assert header.architecture == theirs.fields["general.architecture"].contents()
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert tokens == theirs.fields["tokenizer.ggml.tokens"].contents()
    assert header.file_size == path.stat().st_size
    assert sum(header.bytes_by_type().values()) == header.tensor_bytes <= header.file_size
    assert header.main_type() == {"demo_gguf": "F16", "demo_q4_0": "Q4_0"}[which]


def test_truncated_file_is_rejected(small: Path) -> None:
    raw = small.read_bytes()
    end = max(t.offset + t.n_bytes for t in read_gguf(small).tensors)
    for n in range(end):
        small.write_bytes(raw[:n])
        with pytest.raises(CorruptModel, match=r"small\.gguf"):
            read_gguf(small)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
)
def test_changed_bytes_do_not_crash_the_reader(
    small: Path, changes: list[tuple[float, bytes]]
) -> None:
    raw = bytearray(small.read_bytes())
    for place, data in changes:
        at = int(place * len(raw))
        raw[at : at + len(data)] = data
    damaged = small.with_name("damaged.gguf")
    damaged.write_bytes(raw)
    with suppress(CorruptModel):
        read_gguf(damaged)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=200))
def test_random_bytes_after_valid_start_do_not_crash_the_reader(
    tmp_path: Path, n_tensors: int, n_keys: int, rest: bytes
) -> None:
    path = tmp_path / "rubbish.gguf"
    path.write_bytes(build(n_tensors=n_tensors, n_keys=n_keys, rest=rest))
    with suppress(CorruptModel):
        read_gguf(path)


def build(version: int = 3, n_tensors: int = 0, n_keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not a GGUF"),
        (b"GGUF", "ends inside"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF"),
        (build(version=1), "version 1"),
        (build(version=99), "version 99"),
        (build(n_tensors=2**60), "tensors"),
        (build(n_keys=2**60), "metadata keys"),
        (build(n_keys=1, rest=struct.pack("<Q", 2**60) + bytes(40)), "bytes of a metadata key"),
        (build(n_keys=1, rest=text("k") + struct.pack("<I", 99)), "unknown type 99"),
        (build(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 4, 2**61) + bytes(9)), "numbers in k"),
        (build(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(9)), "unknown type 9"),
        (build(n_tensors=1, rest=tensor("t", (4,), 0, 0)), "outside"),
        (build(n_tensors=1, rest=tensor("t", (2**62, 2**62), 0, 0) + bytes(64)), "outside"),
        (build(n_tensors=1, rest=tensor("t", (0,), 0, 0) + bytes(64)), "does not divide"),
        (build(n_tensors=1, rest=tensor("t", (33,), 2, 0) + bytes(64)), "does not divide into Q4_0"),
        (build(n_tensors=1, rest=tensor("t", (4,), 77, 0) + bytes(64)), "unknown type 77"),
        (build(n_tensors=1, rest=tensor("t", (1,) * 5, 0, 0) + bytes(64)), "5 dimensions"),
        (build(n_tensors=2, rest=tensor("t", (4,), 0, 0) * 2 + bytes(96)), "same name"),
        (build(n_keys=1, rest=text("k") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(9)), "strings in k"),
        (build(n_keys=1, rest=text("k") + struct.pack("<IIQQ", 9, 8, 1, 2**60)), "bytes of k"),
        (build(n_keys=2, rest=(text("k") + struct.pack("<II", 4, 1)) * 2), "'k' occurs twice"),
        (build(n_keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 24)), "general.alignment is 24"),
        (build(n_keys=1, rest=text("general.alignment") + struct.pack("<II", 4, 0)), "general.alignment is 0"),
        (build(n_keys=1, rest=text("general.alignment") + struct.pack("<IB", 7, 1)), "general.alignment is True"),
        (build(n_keys=1, rest=text("general.alignment") + struct.pack("<I", 8) + text("32")), "alignment is '32'"),
        (build(n_tensors=1, rest=text("t") + struct.pack("<IIQ", 0, 0, 0) + bytes(64)), "0 dimensions"),
        (build(n_tensors=1, rest=text("t") + struct.pack("<IIQ", 2**31, 0, 0) + bytes(64)), "dimensions"),
        (build(n_tensors=1, rest=tensor("t", (4, 0, 4), 0, 0) + bytes(64)), "does not divide"),
        (build(n_tensors=1, rest=tensor("t", (4,), 0, 2**64 - 32) + bytes(96)), "outside"),
        (build(n_tensors=1, rest=tensor("t", (4,), 0, 3) + bytes(96)), "is not aligned to 32 bytes"),
    ],
)  # fmt: skip
def test_malformed_header_is_rejected(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(CorruptModel) as e:
        read_gguf(path)
    assert words in str(e.value)
    assert e.value.hint


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.symlink_to("nowhere"), "no such file"),
        (lambda p: p.symlink_to(p.name), "cannot be read"),
    ],
)
def test_folder_or_missing_file_is_rejected(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "x.gguf")
    with pytest.raises(InvalidInput, match=words):
        read_gguf(tmp_path / "x.gguf")


def test_invalid_path_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInput, match="no such file"):
        read_gguf(tmp_path / "file" / "x.gguf")
    with pytest.raises(InvalidInput, match="cannot be read: File name too long"):
        read_gguf(tmp_path / ("x" * 300))


def test_unreadable_file_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x.gguf").write_bytes(build())
    monkeypatch.setattr(Path, "open", forbidden)  # because root can read every file
    with pytest.raises(InvalidInput, match="cannot be read: Permission denied"):
        read_gguf(tmp_path / "x.gguf")


def test_hint_names_the_conversion_of_other_formats(tmp_path: Path) -> None:
    for name, raw, word in (
        ("old.bin", b"lmgg" + bytes(20), "turbopilot convert"),
        ("llama.bin", b"tjgg" + bytes(20), "checkpoint"),
        ("model.safetensors", bytes(24), "convert its folder"),
        ("pytorch_model.bin", b"PK\x03\x04" + bytes(20), "convert its folder"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(CorruptModel) as e:
            read_gguf(tmp_path / name)
        assert word in e.value.hint
