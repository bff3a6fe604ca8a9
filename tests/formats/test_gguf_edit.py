"""Tests of the metadata editor: it changes no byte of the other keys, of the tensors' entries or of their data."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.formats.test_gguf_file import values
from turbopilot.base.atomic import locked
from turbopilot.base.errors import CorruptModel, InvalidInput, NotEnoughDisk
from turbopilot.formats.gguf.edit import Writable, check_editable, set_metadata
from turbopilot.formats.gguf.file import read_gguf, read_part

ROOT = Path(__file__).parents[2]
NEW: dict[str, Writable] = {
    "turbopilot.new.text": "naïve ✓\0\n", "turbopilot.new.yes": True, "turbopilot.new.no": False,
    "turbopilot.new.large": 2**64 - 1, "turbopilot.new.least": -(2**63), "turbopilot.new.float": 0.1,
    "turbopilot.new.texts": ["a", "", "é"], "turbopilot.new.nothing": [], "": "a key without a name",
}  # fmt: skip


def write(
    path: Path, keys: dict[str, Any], shapes: Sequence[int] = (), alignment: int = 32
) -> Path:
    """Write a file with keys, given as (type, type of the elements, value), and with tensors of `shapes` bytes."""
    writer = gguf.GGUFWriter(path, "x")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, (kind, element, value) in keys.items():
        writer.add_key_value(key, value, kind, sub_type=element)
    for i, n in enumerate(shapes):
        writer.add_tensor(f"tensor {i}", np.arange(i, i + n, dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pairs(path: Path) -> dict[str, bytes]:
    """Return key → bytes of the key with its value in the file."""
    raw, (_, layout) = path.read_bytes(), read_part(path)
    return {key: raw[start:end] for key, (start, end) in layout.keys.items()}


def entries(path: Path) -> bytes:
    _, layout = read_part(path)
    return path.read_bytes()[slice(*layout.infos)]


def data(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.n_bytes] for t in read_part(path)[0].tensors}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
writable = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), texts,
    st.lists(texts, max_size=4),
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    old=st.dictionaries(st.text(min_size=1, max_size=3).map("x.".__add__), values(), max_size=6),
    added=st.dictionaries(st.one_of(st.just("x."), texts), writable, max_size=4),
    replaced=st.lists(writable, max_size=2),
    remove=st.sampled_from(["", "x.", "x.0", "y."]),
    sizes=st.lists(st.integers(1, 70), max_size=3),
    alignment=st.sampled_from([1, 8, 32, 256]),
)
def test_only_requested_keys_change(
    tmp_path: Path,
    old: dict[str, Any],
    added: dict[str, Writable],
    replaced: list[Writable],
    remove: str,
    sizes: list[int],
    alignment: int,
) -> None:
    path = write(tmp_path / "x.gguf", old, sizes, alignment)
    before, kept_entries, kept_data = pairs(path), entries(path), data(path)
    new = {**dict(zip(old, replaced, strict=False)), **added}
    set_metadata(path, new, remove=remove)
    header, layout = read_part(path)
    after = pairs(path)
    kept = [k for k in before if k not in new and not (remove and k.startswith(remove))]
    assert list(after) == [*kept, *new]
    assert {k: after[k] for k in kept} == {k: before[k] for k in kept}
    assert {k: header.metadata[k] for k in new} == new
    assert [type(header.metadata[k]) for k in new] == [type(v) for v in new.values()]
    assert (entries(path), data(path)) == (kept_entries, kept_data)
    assert (layout.alignment, layout.data % alignment) == (alignment, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_setting_and_removing_keys_restores_the_file(demo_q4_0: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw := demo_q4_0.read_bytes())
    set_metadata(path, {k: v for k, v in NEW.items() if k})
    assert path.read_bytes() != raw
    assert data(path) == data(demo_q4_0)
    set_metadata(path, remove="turbopilot.new.")
    assert path.read_bytes() == raw
    set_metadata(path)
    assert path.read_bytes() == raw


def test_ggufs_reader_reads_the_new_keys(demo_q4_0: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(demo_q4_0.read_bytes())
    told = {k: v for k, v in NEW.items() if v != [] and v != NEW["turbopilot.new.text"]}
    set_metadata(path, told)
    theirs, before = gguf.GGUFReader(path), gguf.GGUFReader(demo_q4_0)
    assert {k: theirs.fields[k].contents() for k in told} == told
    assert theirs.fields["turbopilot.new.large"].types == [gguf.GGUFValueType.UINT64]
    assert theirs.fields["turbopilot.new.least"].types == [gguf.GGUFValueType.INT64]
    assert theirs.fields["turbopilot.new.float"].types == [gguf.GGUFValueType.FLOAT64]
    assert len(theirs.tensors) == len(before.tensors)
    for a, b in zip(theirs.tensors, before.tensors, strict=True):
        assert (a.name, a.tensor_type, list(a.shape)) == (b.name, b.tensor_type, list(b.shape))
        assert a.data.tobytes() == b.data.tobytes()


def test_unknown_bytes_are_preserved(tmp_path: Path) -> None:
    """Use keys and names that are not UTF-8, a bool of 2, and bytes between and after the tensors."""

    def text(raw: bytes) -> bytes:
        return struct.pack("<Q", len(raw)) + raw

    odd = text(b"\xff\xfe") + struct.pack("<IB", 7, 2)
    infos = (
        text(b"\x80")
        + struct.pack("<IQIQ", 1, 4, 24, 64)
        + text(b"t")
        + struct.pack("<IQIQ", 1, 4, 24, 0)
    )
    head = b"GGUF" + struct.pack("<IQQ", 2, 2, 1) + odd + infos
    body = b"head" + b"between" * 8 + b"xxxx" + b"tail" + b"after the end"
    path = tmp_path / "x.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + body)
    set_metadata(path, {"k": 1})
    raw = path.read_bytes()
    assert raw.startswith(b"GGUF" + struct.pack("<IQQ", 2, 2, 2) + odd)
    assert infos in raw
    assert raw.endswith(body)
    assert (len(raw) - len(body)) % 32 == 0


def test_file_without_tensors_can_be_edited(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    set_metadata(path, {"k": "v"})
    assert read_gguf(path).metadata == {"k": "v"}


def test_file_mode_and_symlink_are_preserved(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path = write(tmp_path / "there" / "x.gguf", {}, [4])
    path.chmod(0o640)
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    set_metadata(link, {"k": 1})
    assert link.is_symlink()
    assert read_gguf(path).metadata["k"] == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link.gguf", "there", "x.gguf"]


@pytest.mark.parametrize(
    ("keys", "remove", "words"),
    [
        ({"general.alignment": 64}, "", "general.alignment cannot be changed"),
        ({}, "general.", "general.alignment cannot be changed"),
        ({"k": 2**64}, "", "'k': cannot be written"),
        ({"k": -(2**63) - 1}, "", "'k': cannot be written"),
        ({"k": "\ud800"}, "", "'k': cannot be written"),
        ({"k": ["", "\ud800"]}, "", "'k': cannot be written"),
        ({"\ud800": 1}, "", "cannot be written"),
    ],
)
def test_invalid_change_is_rejected(
    tmp_path: Path, keys: dict[str, Writable], remove: str, words: str
) -> None:
    path = write(tmp_path / "x.gguf", {}, [4], alignment=64)
    raw = path.read_bytes()
    with pytest.raises(InvalidInput, match=words):
        set_metadata(path, keys, remove=remove)
    assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_adding_an_alignment_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="alignment"):
        set_metadata(write(tmp_path / "x.gguf", {}, [4]), {"general.alignment": 64})


def test_damaged_or_missing_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0))
    with pytest.raises(CorruptModel):
        set_metadata(tmp_path / "x.gguf", {"k": 1})
    with pytest.raises(InvalidInput, match="no such file"):
        set_metadata(tmp_path / "nothing.gguf", {"k": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_file_in_the_hub_cache_is_not_editable(tmp_path: Path) -> None:
    blob = tmp_path / "models--owner--name" / "blobs" / ("0" * 64)
    blob.parent.mkdir(parents=True)
    write(blob, {}, [4])
    link = tmp_path / "x.gguf"
    link.symlink_to(blob)
    for path in (blob, link):
        with pytest.raises(InvalidInput, match="Hub's cache") as e:
            check_editable(path)
        assert "cp" in e.value.hint
    check_editable(write(tmp_path / "mine.gguf", {}, [4]))


def interrupt(done: int, total: int, what: str = "", /) -> None:
    if done:
        raise KeyboardInterrupt


def test_interrupted_edit_keeps_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {}, [4])
    raw = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        set_metadata(path, NEW, progress=interrupt)
    assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def script(path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    code = "\n".join(
        ("import os, resource, signal", "from pathlib import Path",
         "from turbopilot.formats.gguf.edit import set_metadata", f"path = Path({str(path)!r})", *lines)
    )  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_killed_edit_keeps_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {}, [4])
    raw = path.read_bytes()
    done = script(
        path,
        "def kill(done, *_):",
        "    if done: os.kill(os.getpid(), signal.SIGKILL)",
        "set_metadata(path, {'k': 1}, progress=kill)",
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == raw
    set_metadata(path, {"k": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """Simulate a full disk by a limit on file sizes, which the kernel enforces and which does not need root."""
    path = write(tmp_path / "x.gguf", {}, [50_000])
    raw = path.read_bytes()
    done = script(
        path,
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "set_metadata(path, {'k': 1})",
    )
    assert "NotEnoughDisk" in done.stderr
    assert path.read_bytes() == raw
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_missing_disk_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.gguf", {}, [4])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(NotEnoughDisk, match="are free") as e:
        set_metadata(path, {"k": 1})
    assert "next to the old one" in e.value.hint


def test_file_truncated_during_edit_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {}, [70_000])
    half = path.stat().st_size // 2

    def cut(*_: object) -> None:
        os.truncate(path, half)

    with pytest.raises(InvalidInput, match="became shorter"):
        set_metadata(path, {"k": 1}, progress=cut)
    assert path.stat().st_size == half
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_progress_counts_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {}, [4])
    seen: list[tuple[int, int]] = []
    set_metadata(path, {"k": 1}, progress=lambda d, n, what="": seen.append((d, n)))
    assert seen == sorted(seen)
    assert seen[-1] == (path.stat().st_size,) * 2


def test_second_edit_waits_for_the_first(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {}, [4])

    class Waits(Exception):
        pass

    def wait() -> None:
        raise Waits

    def edit_again(*_: object) -> None:
        with pytest.raises(Waits), locked(path, wait):
            pass

    set_metadata(path, {"k": 1}, progress=edit_again)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]
