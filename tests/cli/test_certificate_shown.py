"""Certificates in the output of inspect and serve; hostile certificates do no harm."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from serve.model_choice import ModelChoice
from serve.models.loading import make_pool
from serve.settings import ServerOptions
from tests.cli.test_inspect import hand_made, string
from tests.support.signed import PLAIN, PREFIX, certificate_of, flip
from turbopilot.app.certificates import at_start
from turbopilot.app.served_models import with_models
from turbopilot.base.progress import Reporter
from turbopilot.cli import app
from turbopilot.formats.gguf import digest as gguf_digest
from turbopilot.formats.gguf.certificate import Certificate, check, digests, read, sign
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf


def hostile(path: Path, **values: bytes) -> Path:
    """Write a file with a valid certificate except for these values, given as raw bytes with their type."""

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


def test_handmade_certificate_differs_only_in_digests(tmp_path: Path) -> None:
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
def test_malformed_certificate_is_ignored(tmp_path: Path, values: dict[str, bytes]) -> None:
    path = hostile(tmp_path / "x.gguf", **values)
    assert read(read_gguf(path)) is None
    assert "verified  " not in inspect(path)
    assert json.loads(inspect(path, "--json"))["certificate"] == {"state": "none"}


def test_terminal_codes_in_a_certificate_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    said = at_start(path, Reporter())
    assert "\n" not in said
    found = digests(path)
    digests_too = {
        f"{name}_sha256": text(value.encode()) for name, value in found._asdict().items()
    }
    holding = hostile(path, **values, **digests_too)
    assert check(read_gguf(holding)) == "valid"
    said = at_start(holding, Reporter())
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
def test_any_certificate_is_shown_or_ignored(tmp_path: Path, values: dict[str, bytes]) -> None:
    path = hostile(tmp_path / "x.gguf", **values)
    inspect(path, "--metadata")
    json.loads(inspect(path, "--json"), parse_constant=lambda name: pytest.fail(name))


# ---- output of inspect and serve


def test_inspect_shows_the_certificate(signed: Path, demo_q4_0: Path) -> None:
    out = inspect(signed)
    assert (
        "verified      yes: against owner/name on 2026-01-02 with torch 2.9.0, llama-cpp-python 0.3.36\n"
        in out
    )
    assert (
        "Q4_0, 4,012 positions, mean KL 1.23e-03, top-1 98.70%, perplexity 12.34 → 12.56\n" in out
    )
    assert "  rows of tensors not compared\n" in out
    assert "unchanged since" in out
    found = json.loads(inspect(signed, "--json"))["certificate"]
    assert found.pop("state") == "valid"
    tuples: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    assert Certificate(**tuples) == certificate_of(demo_q4_0)
    assert "verified  " not in inspect(demo_q4_0)
    assert json.loads(inspect(demo_q4_0, "--json"))["certificate"] == {"state": "none"}


def test_certificate_without_a_count_of_tensors_is_read_as_not_compared(unsigned: Path) -> None:
    sign(unsigned, certificate_of(unsigned, compared_tensors=49))
    assert "all rows of 49 tensors compared\n" in inspect(unsigned)
    certificate = read(read_gguf(unsigned))
    assert certificate
    set_metadata(unsigned, remove="turbopilot.verified.compared_tensors")
    older = read(read_gguf(unsigned))
    assert older == replace(certificate, compared_tensors=0)
    assert check(read_gguf(unsigned)) == "valid"


@pytest.mark.parametrize("what", ["tensors", "metadata"])
def test_inspect_reports_a_changed_file(signed: Path, what: str) -> None:
    if what == "tensors":
        flip(signed, read_gguf(signed).tensors[3].offset)
    else:
        set_metadata(signed, {"general.name": "another"})
    out = inspect(signed)
    assert (
        f"verified      no longer: its {what} changed after the verification; verify it again"
        in out
    )
    assert f"turbopilot verify {signed} --against CHECKPOINT --sign" in out
    assert "yes:" not in out.partition("verified")[2]
    found = json.loads(inspect(signed, "--json"))["certificate"]
    assert (found["state"], found["passed"]) == (f"{what} changed", True)


def test_certificate_of_a_failed_file_is_not_shown_as_verified(
    unsigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    sign(unsigned, certificate_of(unsigned, passed=False))
    assert "verified      no: the file failed against owner/name" in inspect(unsigned)
    assert at_start(unsigned, Reporter()).startswith(
        "not verified: the file failed against owner/name on 2026-01-02"
    )


def test_file_without_certificate_is_not_read_whole(
    demo_q4_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(*_: object) -> None:
        pytest.fail("read the tensors")

    monkeypatch.setattr(gguf_digest, "_tensors", reads)
    inspect(demo_q4_0)
    at_start(demo_q4_0, Reporter())


def test_serve_shows_the_certificate_at_start(
    unsigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("serve.http.server.serve", lambda options, notify, editors: None)

    def said() -> str:
        done = CliRunner().invoke(app, ["serve", str(unsigned)])
        assert (done.exit_code, done.stdout) == (0, "")
        return done.stderr

    assert said() == (
        "not verified; to verify the file, run "
        f"turbopilot verify {unsigned} --against CHECKPOINT --sign\n"
    )
    sign(unsigned, certificate_of(unsigned))
    assert said() == (
        "verified: against owner/name on 2026-01-02 with torch 2.9.0, llama-cpp-python 0.3.36; "
        "Q4_0, 4,012 positions, mean KL 1.23e-03, top-1 98.70%, perplexity 12.34 → 12.56; "
        "rows of tensors not compared\n"
    )
    flip(unsigned, read_gguf(unsigned).tensors[0].offset)
    assert said() == (
        f"the certificate of {unsigned} is no longer valid: its tensors changed after the verification; "
        f"verify it again: turbopilot verify {unsigned} --against CHECKPOINT --sign\n"
    )


def test_serve_shows_no_line_for_cached_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("serve.http.server.serve", lambda options, notify, editors: None)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 0
    assert "verif" not in done.stderr
    made = next((tmp_path / "cache").glob("*.gguf"))
    sign(made, certificate_of(made))
    assert "verified: against owner/name" in CliRunner().invoke(app, ["serve"]).stderr


def test_no_sign_hint_for_files_in_the_hub_cache(unsigned: Path, tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "snapshots" / "main" / "m.gguf"
    blob.parent.mkdir(parents=True)
    shutil.copy(unsigned, blob)
    assert at_start(blob, Reporter()) == (
        f"not verified; to verify the file, run turbopilot verify {blob} --against CHECKPOINT"
    )


SOLVED = "infill: 40 of 100 exact, reference 41 (difference -1.0%, 95 % -4.6% … +2.7%, p 1)"


def test_results_of_tasks_are_shown(unsigned: Path) -> None:
    sign(unsigned, certificate_of(unsigned, completions=(SOLVED, "span: x")))
    certificate = read(read_gguf(unsigned))
    assert certificate
    assert certificate.completions == (SOLVED, "span: x")
    assert SOLVED in inspect(unsigned)
    assert SOLVED in at_start(unsigned, Reporter())
    options = ServerOptions(Path())
    served = with_models(options, ModelChoice(model=str(unsigned)), Reporter())
    (model,) = make_pool(served, lambda _: None).statuses
    assert SOLVED in model.certificate
    flip(unsigned, read_gguf(unsigned).tensors[0].offset)
    served = with_models(options, ModelChoice(model=str(unsigned)), Reporter())
    assert not served.model.certificate


def test_models_shows_certificates(unsigned: Path, demo_gguf: Path) -> None:
    sign(unsigned, certificate_of(unsigned, completions=(SOLVED,)))
    words = ["models", "--verified", str(unsigned), "--verified", str(demo_gguf)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    _, first, second, *_ = done.stdout.splitlines()
    assert first.split()[:2] == ["m.gguf", "yes"]
    assert second.split()[1] == "no"
    assert SOLVED in " ".join(done.stdout.split())
    flip(unsigned, read_gguf(unsigned).tensors[0].offset)
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["files"]
    assert [(f["verified"], f["state"]) for f in found] == [
        (False, "tensors changed"),
        (False, "none"),
    ]
