"""A certificate holds while nothing of the file changes, and not a byte longer; and it changes no tensor itself."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from converters import convert
from quantize import quantize
from tests.test_inspect import hand_made, string
from turbopilot import certificate as module
from turbopilot import gguf_digest
from turbopilot.certificate import (
    Certificate,
    Digests,
    check,
    digests,
    read,
    remembered_digests,
    sign,
)
from turbopilot.cli import app
from turbopilot.commands.certified import at_start
from turbopilot.errors import CorruptModel, InvalidInput
from turbopilot.gguf_edit import set_metadata
from turbopilot.gguf_file import read_gguf, read_part
from turbopilot.verify.gguf_candidate import GgufCandidate

PREFIX = "turbopilot.verified."
PLAIN = Certificate(
    passed=True, reference="owner/name", reference_files=("0" * 64 + "  model.safetensors",), type_name="Q4_0",
    positions=4012, max_context=1024, mean_kl=0.00123, max_kl=0.5, top1=0.987, nmse=1e-4,
    reference_perplexity=12.34, candidate_perplexity=12.56, limits="NMSE ≤ 1.2e-3",
    versions=("torch 2.9.0", "llama-cpp-python 0.3.36", "numpy 2.0"), date="2026-01-02T03:04:05+00:00",
    tensors_sha256="0" * 64, metadata_sha256="0" * 64,
)  # fmt: skip


def certificate_of(path: Path, **changes: Any) -> Certificate:
    found = digests(path)
    return replace(PLAIN, tensors_sha256=found.tensors, metadata_sha256=found.metadata, **changes)


@pytest.fixture
def file(demo_q4_0: Path, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(demo_q4_0, tmp_path / "models" / "m.gguf"))


@pytest.fixture
def signed(file: Path) -> Path:
    sign(file, certificate_of(file))
    return file


@pytest.fixture
def parts(demo_checkpoint: Path, tmp_path: Path) -> Path:
    return convert(demo_checkpoint, tmp_path / "split.gguf", split_max_size=4_000_000).path


def tensor_data(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.n_bytes] for t in read_part(path)[0].tensors}


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def test_what_is_signed_is_read_and_holds(demo_q4_0: Path, signed: Path) -> None:
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


def test_llama_cpp_computes_the_same(demo_q4_0: Path, signed: Path) -> None:
    with GgufCandidate(demo_q4_0) as before, GgufCandidate(signed) as after:
        ids = before.tokenize("def add(a, b):\n    return a + b\n")
        assert after.tokenize("def add(a, b):\n    return a + b\n") == ids
        assert np.array_equal(before.logits(ids), after.logits(ids))


def test_signing_again_replaces(signed: Path) -> None:
    first = signed.read_bytes()
    sign(signed, certificate_of(signed))
    assert signed.read_bytes() == first
    sign(signed, certificate_of(signed, reference="another", reference_files=(), passed=False))
    found = read(read_gguf(signed))
    assert found
    assert (found.reference, found.reference_files, found.passed) == ("another", (), False)
    assert check(read_gguf(signed)) == "valid"


def test_a_leftover_of_another_format_is_removed(file: Path) -> None:
    set_metadata(file, {PREFIX + "format": 99, PREFIX + "from.the.future": 1})
    assert read(read_gguf(file)) is None
    sign(file, certificate_of(file))
    assert PREFIX + "from.the.future" not in read_gguf(file).metadata
    assert check(read_gguf(file)) == "valid"


def test_every_tensor_is_covered(signed: Path) -> None:
    for t in read_gguf(signed).tensors:
        for at in (t.offset, t.offset + t.n_bytes - 1):
            flip(signed, at)
            assert check(read_gguf(signed)) == "tensors changed", t.name
            flip(signed, at)
    assert check(read_gguf(signed)) == "valid"


def test_every_other_key_is_covered(signed: Path) -> None:
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


def test_a_tensors_name_type_and_shape_are_covered(tmp_path: Path) -> None:
    """The same bytes under another name, of another type or shape are other tensors."""

    def made(name: bytes, kind: int, *shape: int) -> str:
        info = string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)
        raw = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + info
        path = tmp_path / "x.gguf"
        path.write_bytes(raw + bytes(-len(raw) % 32) + bytes(32))
        return digests(path).tensors

    all_of_them = [
        made(b"t", 0, 8), made(b"u", 0, 8), made(b"t", 26, 8), made(b"t", 0, 8, 1), made(b"t", 0, 4, 2),
        made(b"t", 0, 2, 4), made(b"tF", 0, 8),
    ]  # fmt: skip
    assert len(set(all_of_them)) == len(all_of_them)


def test_layout_is_not_content(demo_checkpoint: Path, parts: Path, tmp_path: Path) -> None:
    """Split or whole, aligned so or so, in any order: it is the same model."""
    whole = convert(demo_checkpoint, tmp_path / "split-whole.gguf", name="split").path
    assert read_gguf(parts).n_files > 1
    assert digests(parts).tensors == digests(whole).tensors
    a = string(b"a") + struct.pack("<IQIQ", 1, 1, 0, 0)
    b = string(b"b") + struct.pack("<IQIQ", 1, 1, 0, 64)
    swapped = b.replace(struct.pack("<Q", 64), struct.pack("<Q", 0)), a[:-8] + struct.pack("<Q", 64)
    key = string(b"k") + struct.pack("<II", 4, 1)
    aligned = string(b"general.alignment") + struct.pack("<II", 4, 64)
    found = []
    for alignment, keys, infos, data in (
        (32, key, a + b, b"aaaa" + bytes(60) + b"bbbb"),
        (64, aligned + key, a + b, b"aaaa" + bytes(60) + b"bbbb"),
        (64, key + aligned, b"".join(swapped), b"bbbb" + bytes(60) + b"aaaa"),
    ):
        raw = b"GGUF" + struct.pack("<IQQ", 3, 2, alignment // 32) + keys + infos
        (tmp_path / "x.gguf").write_bytes(raw + bytes(-len(raw) % alignment) + data)
        found.append(digests(tmp_path / "x.gguf"))
    assert len(set(found)) == 1


def test_a_split_model(parts: Path) -> None:
    named = sorted(parts.parent.glob("split-*.gguf"))
    others = {p: p.read_bytes() for p in named[1:]}
    sign(parts, certificate_of(parts))
    assert others == {p: p.read_bytes() for p in named[1:]}, "only the first part is written"
    assert check(read_gguf(parts)) == "valid"
    last = read_gguf(parts).tensors[-1]
    assert last.path == named[-1]
    flip(last.path, last.offset)
    assert check(read_gguf(parts)) == "tensors changed"
    with pytest.raises(InvalidInput, match="is part 2"):
        sign(named[1], PLAIN)


def test_a_merged_model_is_one_file(file: Path) -> None:
    """llama.cpp's gguf-split leaves split.count = 0 in what it merges."""
    sign(file, certificate_of(file))
    set_metadata(file, {"split.count": 0})
    header = read_gguf(file)
    assert (header.n_files, check(header)) == (1, "valid")


def test_another_files_certificate_is_refused(file: Path) -> None:
    found, raw = certificate_of(file), file.read_bytes()
    with pytest.raises(InvalidInput, match="changed since"):
        sign(file, replace(found, metadata_sha256="0" * 64))
    with pytest.raises(InvalidInput, match="changed since"):
        sign(file, replace(found, tensors_sha256=found.metadata_sha256))
    assert file.read_bytes() == raw
    flip(file, read_gguf(file).tensors[0].offset)
    with pytest.raises(InvalidInput, match="changed since"):
        sign(file, found)


@pytest.mark.parametrize(
    "change",
    [
        {"mean_kl": float("nan")}, {"candidate_perplexity": float("inf")}, {"positions": -1}, {"nmse": 1},
        {"positions": True}, {"passed": 1}, {"date": "yesterday"}, {"date": "2026-01-02"}, {"reference": None},
        {"versions": ["torch 2"]}, {"versions": (2,)}, {"tensors_sha256": "0" * 63}, {"metadata_sha256": "G" * 64},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_written(file: Path, change: dict[str, Any]) -> None:
    raw = file.read_bytes()
    with pytest.raises(InvalidInput, match=f"no certificate can say {next(iter(change))}"):
        sign(file, replace(certificate_of(file), **change))
    assert file.read_bytes() == raw


def test_the_hubs_cache_is_not_signed(file: Path, tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "blobs" / "0"
    blob.parent.mkdir(parents=True)
    shutil.copy(file, blob)
    with pytest.raises(InvalidInput, match="Hub's cache"):
        sign(blob, certificate_of(blob))


@pytest.mark.parametrize("when", ["checking", "writing"])
def test_an_interrupted_signing_leaves_the_old_file(signed: Path, when: str) -> None:
    raw, n_tensors = signed.read_bytes(), read_gguf(signed).tensor_bytes

    def interrupt(done: int, total: int, what: str = "", /) -> None:
        assert total == n_tensors + len(raw)
        if done > (n_tensors if when == "writing" else 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sign(signed, certificate_of(signed, reference="new"), interrupt)
    assert signed.read_bytes() == raw
    assert [p.name for p in signed.parent.iterdir()] == ["m.gguf"]


def test_progress_never_goes_back(file: Path) -> None:
    seen: list[tuple[int, int]] = []
    sign(file, certificate_of(file), lambda d, n, what="": seen.append((d, n)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_a_file_that_becomes_shorter_meanwhile(file: Path) -> None:
    header = read_gguf(file)
    os.truncate(file, header.tensors[-1].offset)
    with pytest.raises(InvalidInput, match="became shorter"):
        digests(header)
    with pytest.raises(CorruptModel):
        digests(file)


def test_quantizing_drops_it(demo_gguf: Path, tmp_path: Path) -> None:
    source, out, plain = (tmp_path / f"{n}.gguf" for n in ("source", "out", "plain"))
    shutil.copy(demo_gguf, source)
    sign(source, certificate_of(source))
    quantize(source, out, "Q8_0")
    quantize(demo_gguf, plain, "Q8_0")
    assert not [k for k in read_gguf(out).metadata if k.startswith(PREFIX)]
    assert digests(out) == digests(plain)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "plain.gguf", "source.gguf"]


# ---- hostile certificates


def hostile(path: Path, **values: bytes) -> Path:
    """A file whose certificate is sound but for these values, given as stored with their types."""

    def stored(value: Any) -> bytes:
        if isinstance(value, bool):
            return struct.pack("<I?", 7, value)
        if isinstance(value, int):
            return struct.pack("<II", 4, value)
        if isinstance(value, float):
            return struct.pack("<Id", 12, value)
        if isinstance(value, str):
            return struct.pack("<I", 8) + string(value.encode())
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(v.encode()) for v in value)

    keys = {name: stored(value) for name, value in {**asdict(PLAIN), "format": 1}.items()}
    keys.update(values)
    return hand_made(path, {(PREFIX + name).encode(): value for name, value in keys.items()})


def text(raw: bytes) -> bytes:
    return struct.pack("<I", 8) + string(raw)


def inspect(path: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["inspect", str(path), *more])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def test_the_hand_made_one_is_sound_but_for_its_digests(tmp_path: Path) -> None:
    header = read_gguf(hostile(tmp_path / "x.gguf"))
    assert read(header) == PLAIN
    assert check(header) == "tensors changed"


@pytest.mark.parametrize(
    "values",
    [
        {"passed": struct.pack("<II", 4, 1)},
        {"positions": struct.pack("<Id", 12, 3.0)},
        {"positions": struct.pack("<Ii", 5, -1)},
        {"mean_kl": struct.pack("<Id", 12, float("nan"))},
        {"top1": struct.pack("<Id", 12, float("inf"))},
        {"top1": text(b"0.9")},
        {"reference": struct.pack("<II", 4, 1)},
        {"versions": text(b"torch 2")},
        {"versions": struct.pack("<IIQI", 9, 4, 1, 2)},
        {"date": text(b"2026-01-02T03:04:05+00:00\nverified yes")},
        {"date": text("٢٠٢٦-01-02T03:04:05Z".encode())},
        {"tensors_sha256": text(b"x" * 64)},
        {"metadata_sha256": text(b"")},
        {"format": struct.pack("<I?", 7, True)},
        {"format": struct.pack("<II", 4, 2)},
        {"format": text(b"1")},
    ],
)
def test_what_cannot_be_is_no_certificate(tmp_path: Path, values: dict[str, bytes]) -> None:
    path = hostile(tmp_path / "x.gguf", **values)
    assert read(read_gguf(path)) is None
    assert "verified  " not in inspect(path)
    assert json.loads(inspect(path, "--json"))["certificate"] == {"state": "none"}


def test_nothing_of_it_drives_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path))
    evil = (
        b"\x1b]0;pwned\x07[bold]\x9b31m\xff\r\nverified      yes\n\xe2\x80\xae" + b"x" * 1_000_000
    )
    fields_of_text = ("reference", "type_name", "limits")
    values = {name: text(evil) for name in fields_of_text}
    values["versions"] = struct.pack("<IIQ", 9, 8, 1) + string(b"torch " + evil)
    path = hostile(tmp_path / "x.gguf", **values)
    out = inspect(path)
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    assert not [line for line in out.splitlines() if line.startswith("verified      yes")]
    assert "[bold]" in out
    assert len(out) < 5000
    json.loads(inspect(path, "--json"))
    said = at_start(path)
    assert "\n" not in said
    found = digests(path)
    digests_too = {
        f"{name}_sha256": text(value.encode()) for name, value in found._asdict().items()
    }
    holding = hostile(path, **values, **digests_too)
    assert check(read_gguf(holding)) == "valid"
    said = at_start(holding)
    assert said.startswith("verified: against ")
    assert "\n" not in said
    assert len(said) < 1000


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from([*(f.name for f in fields(Certificate)), "format"]),
        st.one_of(
            st.binary(max_size=6).map(text),
            st.floats().map(lambda x: struct.pack("<Id", 12, x)),
            st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<IQ", 10, n)),
            st.lists(st.binary(max_size=3), max_size=3).map(
                lambda bs: struct.pack("<IIQ", 9, 8, len(bs)) + b"".join(map(string, bs))
            ),
        ),
    )
)
def test_any_certificate_is_survived(tmp_path: Path, values: dict[str, bytes]) -> None:
    path = hostile(tmp_path / "x.gguf", **values)
    inspect(path, "--metadata")
    json.loads(inspect(path, "--json"), parse_constant=lambda name: pytest.fail(name))


# ---- what inspect and serve say


def test_inspect_shows_it(signed: Path, demo_q4_0: Path) -> None:
    out = inspect(signed)
    assert (
        "verified      yes: against owner/name on 2026-01-02 with torch 2.9.0, llama-cpp-python 0.3.36\n"
        in out
    )
    assert (
        "Q4_0, 4,012 positions, mean KL 1.23e-03, top-1 98.70%, perplexity 12.34 → 12.56\n" in out
    )
    assert "unchanged since" in out
    found = json.loads(inspect(signed, "--json"))["certificate"]
    assert found.pop("state") == "valid"
    tuples: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    assert Certificate(**tuples) == certificate_of(demo_q4_0)
    assert "verified  " not in inspect(demo_q4_0)
    assert json.loads(inspect(demo_q4_0, "--json"))["certificate"] == {"state": "none"}


@pytest.mark.parametrize("what", ["tensors", "metadata"])
def test_inspect_tells_of_a_change(signed: Path, what: str) -> None:
    if what == "tensors":
        flip(signed, read_gguf(signed).tensors[3].offset)
    else:
        set_metadata(signed, {"general.name": "another"})
    out = inspect(signed)
    assert f"verified      no longer: its {what} changed since; verify it again" in out
    assert f"turbopilot verify {signed} --against CHECKPOINT --sign" in out
    assert "yes:" not in out.partition("verified")[2]
    found = json.loads(inspect(signed, "--json"))["certificate"]
    assert (found["state"], found["passed"]) == (f"{what} changed", True)


def test_one_that_failed_is_no_verified_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    sign(file, certificate_of(file, passed=False))
    assert "verified      no: it failed against owner/name" in inspect(file)
    assert at_start(file).startswith("not verified: it failed against owner/name on 2026-01-02")


def test_a_file_without_one_is_not_read(demo_q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*_: object) -> None:
        pytest.fail("read the tensors")

    monkeypatch.setattr(gguf_digest, "_tensors", reads)
    inspect(demo_q4_0)
    at_start(demo_q4_0)


def test_serve_says_it_at_its_start(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("serve.server.serve", lambda options, notify: None)

    def said() -> str:
        done = CliRunner().invoke(app, ["serve", str(file)])
        assert (done.exit_code, done.stdout) == (0, "")
        return done.stderr

    assert said() == f"not verified: turbopilot verify {file} --against CHECKPOINT --sign\n"
    sign(file, certificate_of(file))
    assert said() == (
        "verified: against owner/name on 2026-01-02 with torch 2.9.0, llama-cpp-python 0.3.36; "
        "Q4_0, 4,012 positions, mean KL 1.23e-03, top-1 98.70%, perplexity 12.34 → 12.56\n"
    )
    flip(file, read_gguf(file).tensors[0].offset)
    assert said() == (
        f"the certificate of {file} no longer holds: its tensors changed since; verify it again: "
        f"turbopilot verify {file} --against CHECKPOINT --sign\n"
    )


def test_serve_says_nothing_of_what_it_made_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("serve.server.serve", lambda options, notify: None)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 0
    assert "verif" not in done.stderr
    made = next((tmp_path / "cache").glob("*.gguf"))
    sign(made, certificate_of(made))
    assert "verified: against owner/name" in CliRunner().invoke(app, ["serve"]).stderr


def test_what_lies_in_the_hubs_cache_is_not_to_be_signed(file: Path, tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "snapshots" / "main" / "m.gguf"
    blob.parent.mkdir(parents=True)
    shutil.copy(file, blob)
    assert at_start(blob) == f"not verified: turbopilot verify {blob} --against CHECKPOINT"


# ---- remembered digests


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models whose tensors were read, one after another; the clock is an hour ahead of every file."""
    seen: list[Path] = []
    tensors = gguf_digest._tensors

    def counted(header: Any, progress: Any) -> str:
        seen.append(header.path)
        return tensors(header, progress)

    monkeypatch.setattr(gguf_digest, "_tensors", counted)
    now = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("turbopilot.gguf_digest.time.time_ns", lambda: now)
    return seen


def test_digests_are_remembered(file: Path, tmp_path: Path, reads: list[Path]) -> None:
    folder, link = tmp_path / "cache" / "deep", tmp_path / "link.gguf"
    link.symlink_to(file)
    first = remembered_digests(read_gguf(file), folder)
    assert remembered_digests(read_gguf(file), folder) == first == digests(file)
    assert remembered_digests(read_gguf(link), folder) == first
    assert reads == [file, file], "once by itself, once by digests"
    assert [p.name for p in folder.iterdir()] == ["digests.json"]


@pytest.mark.parametrize("kind", ["written", "same time", "replaced"])
def test_a_change_is_noticed(file: Path, tmp_path: Path, reads: list[Path], kind: str) -> None:
    first, before = remembered_digests(read_gguf(file), tmp_path), file.stat()
    at = read_gguf(file).tensors[0].offset
    if kind == "replaced":
        other = Path(shutil.copy(file, tmp_path / "other"))
        flip(other, at)
        other.replace(file)
    else:
        flip(file, at)
    if kind != "written":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_digests(read_gguf(file), tmp_path) == digests(file) != first


def test_a_change_of_a_part_is_noticed(parts: Path, tmp_path: Path, reads: list[Path]) -> None:
    first = remembered_digests(read_gguf(parts), tmp_path)
    assert remembered_digests(read_gguf(parts), tmp_path) == first
    assert reads == [parts]
    last = read_gguf(parts).tensors[-1]
    flip(last.path, last.offset)
    assert remembered_digests(read_gguf(parts), tmp_path) != first


def test_what_was_written_just_now_is_not_remembered(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written again within the same tick of the file system's clock."""
    stat = file.stat()
    now = max(stat.st_mtime_ns, stat.st_ctime_ns) + 10**9
    monkeypatch.setattr("turbopilot.gguf_digest.time.time_ns", lambda: now)
    remembered_digests(read_gguf(file), tmp_path)
    assert not (tmp_path / "digests.json").exists()


def test_what_changes_while_it_is_read_is_not_remembered(
    file: Path, tmp_path: Path, reads: list[Path]
) -> None:
    def touch(*_: object) -> None:
        os.utime(file, ns=(0, 0))

    remembered_digests(read_gguf(file), tmp_path, touch)
    assert not (tmp_path / "digests.json").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"\xff\xfe\0",
        lambda raw: b"[]",
        lambda raw: b"[" * 100_000,
        lambda raw: b'{"x": 1}',
        lambda raw: raw.replace(b'"tensors"', b'"tensor"'),
        lambda raw: raw.replace(b'"tensors": "', b'"tensors": "x'),
        lambda raw: raw.replace(b'"files": [', b'"files": 1, "f": ['),
    ],
)
def test_a_damaged_memory_is_ignored(
    file: Path, tmp_path: Path, reads: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    first = remembered_digests(read_gguf(file), tmp_path)
    memory = tmp_path / "digests.json"
    memory.write_bytes(damage(memory.read_bytes()))
    for _ in range(2):
        assert remembered_digests(read_gguf(file), tmp_path) == first
    assert len(reads) == 2, "read again once, and remembered again"


def test_a_folder_that_cannot_be_written_is_done_without(
    file: Path, tmp_path: Path, reads: list[Path]
) -> None:
    (tmp_path / "taken").write_text("x")
    assert remembered_digests(read_gguf(file), tmp_path / "taken") == digests(file)
    assert (tmp_path / "taken").read_text() == "x"


def test_the_memory_does_not_grow_for_ever(
    file: Path, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_digest, "_MOST", 2)
    files = [hand_made(tmp_path / f"{i}.gguf", {}) for i in range(3)]
    for path in files:
        remembered_digests(read_gguf(path), tmp_path)
    known = json.loads((tmp_path / "digests.json").read_text())
    assert list(known) == [str(p.resolve()) for p in files[1:]]


def test_states_have_sentences() -> None:
    assert set(module.SENTENCES) == {"none", "valid", "tensors changed", "metadata changed"}
    assert PLAIN.digests == Digests("0" * 64, "0" * 64)
