"""PyTorch files that try to run code, exhaust memory or never end; and damaged ones."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.torch_file import MAX_DIRECTORY, read_pickle
from tests.support import torch_files as made
from tests.support.torch_files import refused
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput

CODE = "__import__('os').system('touch marker.txt')"

# Each creates the file marker.txt if `pickle.loads` reads it.
RUNNING = {
    "global-reduce": b"\x80\x02cos\nsystem\nX\x10\0\0\0touch marker.txt\x85R.",
    "eval": made.PROTO + made.name("builtins.eval") + made.text(CODE) + b"\x85R.",
    "python-2": made.PROTO + made.name("__builtin__.eval") + made.text(CODE) + b"\x85R.",
    "stack-global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x10touch marker.txt\x85R.",
    "inst": b"(S'touch marker.txt'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch marker.txt'\no.",
}


@pytest.mark.parametrize("kind", RUNNING)
@pytest.mark.parametrize("where", ["whole", "value", "key", "storage", "before"])
def test_code_in_a_pickle_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    marker, program = tmp_path / "marker.txt", RUNNING[kind]
    with suppress(Exception):
        pickle.loads(program)
    assert marker.exists(), "the program is harmless, so this test proves nothing"
    marker.unlink()
    inner = program.removesuffix(b".")
    at = {
        "whole": program,
        "value": made.holding(inner),
        "key": made.PROTO + b"}" + inner + b"K\x01s.",
        "storage": made.holding(inner + b"Q"),
        "before": inner + b"0" + made.holding(made.tensor()),
    }
    path = made.with_pickle(tmp_path / "pytorch_model.bin", at[where])
    refused(path, CorruptCheckpoint)
    assert not marker.exists()


FILLED = made.storage() + b"N}" + made.text("count") + b"K\1s\x86b"
DOUBLED = b")" + b"q\0h\0\x86" * 60  # a tuple of 2^60 parts
HOSTILE = {
    "build": (made.holding(b"cos\nsystem\n}X\1\0\0\0aK\1sb"), "os.system"),
    "build-on-a-function": (made.holding(made.name("torch.Size") + b"}b"), "sets attributes"),
    "build-on-a-tensor": (made.holding(made.tensor() + b")b"), "sets attributes"),
    "build-on-a-storage": (made.holding(made.tensor(of=FILLED)), "sets attributes"),
    "build-on-a-dict": (made.holding(b"}}b"), "sets attributes"),
    "build-on-a-list": (made.holding(b"]}b"), "inconsistent"),
    "newobj": (made.holding(b"csubprocess\nPopen\n)\x81"), "0x81"),
    "newobj-of-what-is-allowed": (made.holding(made.name("torch.Tensor") + b")\x81"), "0x81"),
    "newobj-ex": (made.holding(made.name("torch.Tensor") + b")}\x92"), "0x92"),
    "ext1": (made.holding(b"\x82\x01"), "0x82"),
    "ext4": (made.holding(b"\x84\1\0\0\0"), "0x84"),
    "persid": (made.holding(b"Pstorage\n"), "0x50"),
    "id-that-is-not-a-storage": (made.holding(b"K\1Q"), "not a storage"),
    "id-of-a-module": (made.holding(b"(" + made.text("module") + b"NNNNtQ"), "not a storage"),
    "nested-from-type": (made.holding(made.name("torch._tensor._rebuild_from_type_v2") + b"q\0(h\0N)NtR"), "wraps"),
    "nested-pickle": (made.holding(made.name("pickle.loads") + b"U\1.\x85R"), "pickle.loads"),
    "dotted-name": (made.holding(b"ctorch\nSize.__class__\n"), "torch.Size.__class__"),
    "odd-name": (made.holding(b"cos\x1b[31m\nsystem\n"), "os?[31m.system"),
    "long-name": (made.holding(b"c" + b"a" * 10_000 + b"\nb\n"), "weight files never need"),
    "protocol-5": (made.PROTO[:1] + b"\5" + made.holding(b"N")[2:], "protocol 5"),
    "stack-underflow": (made.PROTO + b"R.", "inconsistent"),
    "mark-underflow": (made.PROTO + b"u.", "inconsistent"),
    "memo-index-that-is-unused": (made.holding(b"h\7"), "inconsistent"),
    "memo-at-2-to-the-32": (made.holding(b"Nr\xff\xff\xff\xff"), "memo index 4,294,967,295"),
    "no-stop": (made.PROTO + b"}", "ends early"),
    "text-of-4-gb": (made.PROTO + b"X\xff\xff\xff\xffa.", "ends early"),
    "text-that-is-not-utf-8": (made.holding(b"X\1\0\0\0\xff"), "inconsistent"),
    "odd-items": (made.PROTO + b"}(Nu.", "inconsistent"),
    "deep-tuples": (made.holding(b")" + b"\x85" * 100_000), "not a plain tensor"),
    "deep-lists": (made.PROTO + b"]" * 50_000 + b"a" * 49_999 + b".", "a list"),
    "doubled-tuple-as-key": (made.PROTO + b"}" + DOUBLED + b"Ns.", "of type tuple"),
    "deep-tuple-as-key": (made.PROTO + b"})" + b"\x85" * 1_000_000 + b"Ns.", "of type tuple"),
    "set-of-a-doubled-tuple": (made.holding(b"(" + DOUBLED + b"\x91"), "0x91"),
    "doubled-tuple-called": (made.holding(DOUBLED + b")R"), "inconsistent"),
    "doubled-tuple-as-id": (made.holding(DOUBLED + b"Q"), "not a storage"),
    "doubled-tuple-as-storage": (made.holding(made.tensor(of=DOUBLED)), "without a valid storage"),
    "colliding-keys": (made.PROTO + b"}(" + made.integer(2**61 - 1) + b"N" + b"u.", "of type int"),
    "a-gigabyte": (made.holding(made.name("builtins.bytearray") + b"J\0\0\0\x40\x85R"), "bytearray"),
    "a-tensor-of-a-gigabyte": (made.holding(made.name("torch.Tensor") + b"J\0\0\0\x10\x85R"), "torch.Tensor"),
    "not-a-dict": (made.PROTO + b"].", "a list"),
    "a-name-that-is-a-number": (made.PROTO + b"}K\1" + made.tensor() + b"s.", "which is not a string"),
    "not-a-tensor": (made.holding(b"K\1"), "not a plain tensor"),
    "missing-storage": (made.holding(made.tensor(of=made.storage("9"))), "not in the file"),
    "path-as-key": (made.holding(made.tensor(of=made.storage("../../../etc/passwd"))), "not in the file"),
    "storage-of-another-size": (made.holding(made.tensor(of=made.storage(count=5))), "should have 20 bytes"),
    "storage-of-2-to-the-70": (made.holding(made.tensor(of=made.storage(count=2**70))), "impossible"),
    "negative-storage": (made.holding(made.tensor(of=made.storage(count=-4))), "impossible"),
    "negative-size": (made.holding(made.tensor(shape=(-4,))), "impossible"),
    "negative-offset": (made.holding(made.tensor(-1)), "impossible"),
    "size-of-2-to-the-62": (made.holding(made.tensor(shape=(2**62,))), "needs"),
    "size-of-2-to-the-2000": (made.holding(made.tensor(shape=(2**1990,))), "impossible"),
    "a-thousand-dimensions": (made.holding(made.tensor(shape=(1,) * 1000, stride=(1,) * 1000)), "impossible"),
    "beyond-the-storage": (made.holding(made.tensor(1)), "needs 20 bytes"),
    "far-beyond-the-storage": (made.holding(made.tensor(2**62)), "needs"),
    "fewer-strides": (made.holding(made.tensor(shape=(2, 2))), "without a valid shape"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_rejected(tmp_path: Path, kind: str) -> None:
    program, word = HOSTILE[kind]
    path = made.with_pickle(tmp_path / "pytorch_model.bin", program)
    harmless = kind in (
        "a-gigabyte",
        "a-tensor-of-a-gigabyte",
    )  # names that weight files may contain
    refused(path, InvalidInput if harmless else CorruptCheckpoint, word)


GOOD = made.holding(made.tensor())
ENTRIES = {"a/data.pkl": GOOD, "a/byteorder": b"little", "a/data/0": bytes(16)}


def zipped(entries: dict[str, bytes], compression: int = 0) -> Callable[[Path], None]:
    def written(path: Path) -> None:
        made.write(path, entries, compression)

    return written


def patch(at: int, new: bytes, before: bytes = b"PK\1\2") -> Callable[[Path], None]:
    """Return a writer of a zip with `new` at offset `at` from the last `before` (default: data/0's entry)."""

    def patched(path: Path) -> None:
        raw = made.write(path, ENTRIES).read_bytes()
        at_byte = raw.rindex(before) + at
        path.write_bytes(raw[:at_byte] + new + raw[at_byte + len(new) :])

    return patched


@pytest.mark.parametrize(
    ("fault", "error", "word"),
    [
        (zipped({**ENTRIES, "b/data/0": bytes(16)}), CorruptCheckpoint, "occurs twice"),
        (zipped({"a/data/0": bytes(16)}), CorruptCheckpoint, "no data.pkl"),
        (zipped({**ENTRIES, "a/data/0": bytes(15)}), CorruptCheckpoint, "should have 16 bytes, but has 15"),
        (zipped({"../data.pkl": GOOD, "../../data/0": bytes(16)}), CorruptCheckpoint, "not in the file"),
        (zipped(ENTRIES, zipfile.ZIP_DEFLATED), InvalidInput, "compressed"),
        (zipped({**ENTRIES, "a/byteorder": b"big"}), InvalidInput, "big-endian"),
        (patch(20, b"\xf0\xff\xff\x7f" * 2), CorruptCheckpoint, "not at the directory's offset"),
        (patch(24, b"\xf0\xff\xff\x7f"), CorruptCheckpoint, "two different sizes"),
        (patch(20, b"\x0c\0\0\0" * 2), CorruptCheckpoint, "not at the directory's offset"),
        (patch(42, b"\0\0\0\0"), CorruptCheckpoint, "not at the directory's offset"),
        (patch(42, b"\xff\xff\xff\x7f"), CorruptCheckpoint, "not at the directory's offset"),
        (patch(46, b"a/data/1"), CorruptCheckpoint, "not at the directory's offset"),
        (patch(8, b"\1"), InvalidInput, "compressed"),
        (patch(6, b"\xff"), CorruptCheckpoint, "cannot be read"),
        (patch(16, b"\0\0\0\1", b"PK\5\6"), CorruptCheckpoint, "cannot be read"),
        (patch(0, b"PK\7\7", b"PK\5\6"), CorruptCheckpoint, "cannot be read"),
        (patch(5, b"y", b"X\1\0\0\0x"), CorruptCheckpoint, "checksum"),
    ],
)  # fmt: skip
def test_damaged_zip_is_rejected(
    tmp_path: Path, fault: Callable[[Path], None], error: type[Exception], word: str
) -> None:
    path = tmp_path / "pytorch_model.bin"
    fault(path)
    refused(path, error, word)


def test_huge_zip_directory_or_pickle_is_rejected(tmp_path: Path) -> None:
    """Use a sparse file, so that the huge directory needs no disk space."""
    path = made.write(tmp_path / "pytorch_model.bin", ENTRIES)
    raw = path.read_bytes()
    end = bytearray(raw[-22:])
    end[12:16] = (MAX_DIRECTORY * 8).to_bytes(4, "little")
    with path.open("r+b") as f:
        f.seek(MAX_DIRECTORY * 9)
        f.write(end)
    refused(path, CorruptCheckpoint, "directory")
    with zipfile.ZipFile(path, "w") as archive, archive.open("a/data.pkl", "w") as f:
        for _ in range(20):
            f.write(bytes(1 << 20))
    refused(path, CorruptCheckpoint, "data.pkl is 20,971,520 bytes")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "weights.bin"
    matrix = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": matrix, "b": torch.zeros(12).half(), "c": matrix[1]}, path)
    return path


@given(at=st.integers(0, 1999), bits=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=400, deadline=None)
def test_damaged_file_reads_the_same_or_is_rejected(
    small: Path, at: int, bits: int, cut: bool
) -> None:
    whole = small.read_bytes()
    expected = read_pickle(small)
    damaged = bytearray(whole)
    at %= len(damaged)
    damaged[at] ^= bits
    path = small.with_name("damaged.bin")
    path.write_bytes(whole[:at] if cut else damaged)
    tracemalloc.start()
    try:
        found = read_pickle(path)
    except (CorruptCheckpoint, InvalidInput):
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 << 20
    assert not cut
    places = {n: replace(t, path=small) for n, t in found.items()}
    assert places == expected


def test_wrong_lengths_of_name_and_padding_are_rejected(small: Path) -> None:
    """Flip each bit of the lengths; some flips move the end of the data to the start or end of a later entry."""
    whole = small.read_bytes()
    path = small.with_name("shifted.bin")
    with zipfile.ZipFile(small) as archive:
        starts = [e.header_offset for e in archive.infolist() if "/data/" in e.filename]
    assert len(starts) == 2
    for start, at, bit in product(starts, range(26, 30), range(8)):
        damaged = bytearray(whole)
        damaged[start + at] ^= 1 << bit
        path.write_bytes(damaged)
        refused(path, CorruptCheckpoint, "not at the directory's offset")


def test_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"x": torch.arange(4.0)}, tmp_path / "x.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_pickle(tmp_path / "x.bin")["x"].shape == (4,)


NUMBERS = st.lists(st.integers(-1, 4), max_size=3).map(tuple)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_accepted_pickles_give_the_tensors_of_torch(small: Path, data: st.DataObject) -> None:
    """Generate tensors of any offset and shape, with various opcodes around them."""
    shape = data.draw(NUMBERS)
    rows = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
    stride = data.draw(st.just(rows) | NUMBERS)
    storage = made.storage(count=data.draw(st.sampled_from([4, 4, 4, 3, 5, 0, -1])))
    tensor = made.tensor(data.draw(st.sampled_from([0, 0, 1, 3, -1])), shape, stride, storage)
    mark, hooks = b"(", made.name("collections.OrderedDict") + b")R"
    parameter = (
        made.name("torch._utils._rebuild_parameter") + mark + tensor + b"\x89" + hooks + b"tR"
    )
    junk = st.sampled_from(
        [b"", b"", b"", b"N0", b"}b", b"]a", b"q\7", b")R", b"h\7", b"K\1Ns", b"Q"]
    )
    inner = data.draw(st.sampled_from([tensor, tensor, parameter])) + data.draw(junk)
    start = data.draw(
        st.sampled_from([b"}", hooks, hooks + b"}" + made.text("_metadata") + b"Nsb"])
    )
    state = start + data.draw(junk) + made.text("x") + inner + b"s"
    nested = made.PROTO + b"}" + made.text("state_dict") + state + b"s."
    program = data.draw(st.sampled_from([made.PROTO + state + b".", nested]))
    path = made.with_pickle(small.with_name("made.bin"), program)
    try:
        found = read_pickle(path)
    except (CorruptCheckpoint, InvalidInput):
        return
    theirs = torch.load(path, weights_only=True)
    theirs = theirs.get("state_dict", theirs)
    assert {n: t.shape for n, t in found.items()} == {n: tuple(t.shape) for n, t in theirs.items()}
    for n, t in found.items():
        assert path.read_bytes()[t.offset :][: t.n_bytes] == theirs[n].detach().numpy().tobytes()
