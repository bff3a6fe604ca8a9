"""The `turbopilot verify` command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from converters import convert
from tests.support.gguf_faults import WEIGHT_FAULTS, faulty, rows, tensor
from tests.support.old_ggml import old_gptj, old_neox, old_starcoder
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import Lab
from turbopilot.cli import app
from turbopilot.formats.gguf.certificate import check, read
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.verify import VerifyOptions
from turbopilot.verify import verify as run_verify
from turbopilot.verify.gguf_reference import GgufReference


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab("starcoder2", tmp_path_factory.mktemp("lab"))
    for type_name in ("f16", "q8_0", "q4_0"):
        lab.gguf(type_name)
    return lab


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "verify-cache"
    monkeypatch.setenv("TURBOPILOT_CACHE", str(folder))
    return folder


def verify(lab: Lab, *arguments: object, against: Path | None = None) -> Result:
    words = ["verify", *map(str, arguments), "--against", str(against or lab.checkpoint)]
    return CliRunner().invoke(app, [*words, "--positions", "600"])


def test_several_files_are_shown_side_by_side(lab: Lab) -> None:
    files = [lab.gguf(t) for t in ("f16", "q8_0", "q4_0")]
    done = verify(lab, *files)
    assert done.exit_code == 0, done.output
    for words in ("f16.gguf", "q8_0.gguf", "Q4_0", "tokens/s", "perplexity", "passed"):
        assert words in done.stdout
    plain = json.loads(verify(lab, *files, "--json").stdout)
    kl = [r["metrics"]["mean_kl"] for r in plain["reports"]]
    assert kl == sorted(kl)
    assert all(r["passed"] for r in plain["reports"])
    assert {w["kind"] for w in plain["reports"][0]["windows"]} == {"context", "fim", "code"}
    assert set(plain["reports"][0]["by_kind"]) == {"context", "fim", "code"}
    assert plain["reports"][0]["reference_files"].keys() >= {"model.safetensors", "config.json"}


def test_one_failing_file_fails_the_run(lab: Lab, tmp_path: Path) -> None:
    bad = faulty(lab.gguf("q8_0"), tmp_path / "bad.gguf", WEIGHT_FAULTS["embedding shifted by one"])
    done = verify(lab, lab.gguf("q8_0"), bad, "--sign")
    assert done.exit_code == 7
    assert "FAILED" in done.stdout
    assert "bad.gguf does not match" in done.stderr
    assert "cause: rows are shifted: token_embd.weight" in done.stderr
    assert read(read_gguf(bad)) is None, "failed files are not signed"
    lab.gguf("q8_0").unlink()  # it is signed now, and other tests need it unsigned


def test_change_after_signing_is_reported(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "signed.gguf"
    shutil.copyfile(lab.gguf("q4_0"), path)
    before = {t.name: t for t in read_gguf(path).tensors}
    done = verify(lab, path, "--sign")
    assert done.exit_code == 0, done.output
    header = read_gguf(path)
    certificate = read(header)
    assert certificate is not None
    assert check(header) == "valid"
    assert certificate.passed
    assert certificate.reference == "checkpoint", "the name without the path"
    assert certificate.type_name == "Q4_0"
    assert certificate.positions > 500
    assert any("model.safetensors" in file for file in certificate.reference_files)
    assert {t.name: t.n_bytes for t in header.tensors} == {n: t.n_bytes for n, t in before.items()}
    changed = next(t for t in header.tensors if t.type_name == "Q4_0")
    data = np.memmap(path, np.uint8, "r+", changed.offset, (changed.n_bytes,))
    data[4] ^= 1  # the next level of one weight
    data.flush()
    assert check(read_gguf(path)) == "tensors changed"
    again = verify(lab, path, "--sign")
    assert again.exit_code == 7, "one level of one weight has changed"
    assert changed.name in again.stderr
    again = verify(lab, path, "--no-tensors", "--sign")
    assert again.exit_code == 0, again.output
    assert check(read_gguf(path)) == "valid", "the changed file was signed again"


def test_tensors_are_compared(lab: Lab) -> None:
    done = verify(lab, lab.gguf("q4_0"), "--tensors")
    assert done.exit_code == 0, done.output
    assert "largest error relative to its limit first" in done.stdout
    assert "relative squared error" in done.stdout
    plain = json.loads(verify(lab, lab.gguf("q4_0"), "--tensors", "--json").stdout)
    assert {t["name"] for t in plain["tensors"]} == {
        t.name for t in read_gguf(lab.gguf("q4_0")).tensors
    }


def test_rows_are_compared_unless_they_are_skipped(lab: Lab, tmp_path: Path) -> None:
    """Negate a row, which drowns in the noise of Q4_0, so that the logits alone pass."""

    def negated(path: Path, header: GgufHeader) -> None:
        view = rows(path, tensor(header, "blk.0.ffn_down.weight"))
        view[17].reshape(-1, 18)[:, :2].view(np.float16)[:] *= -1

    bad = faulty(lab.gguf("q4_0"), tmp_path / "bad.gguf", negated)
    done = verify(lab, bad)
    assert done.exit_code == 7
    assert "blk.0.ffn_down.weight" in done.stderr
    assert "row 17 of 256 is negated" in done.stderr.replace("\n", " ").replace("  ", " ")
    done = verify(lab, bad, "--no-tensors", "--sign")
    assert done.exit_code == 0, done.output
    assert "not compared: --no-tensors" in done.stdout
    assert "the rows of matrices were not compared" in done.stdout.replace("\n", " ")
    signed = read(read_gguf(bad))
    assert signed
    assert signed.compared_tensors == 0
    done = verify(lab, lab.gguf("f16"), "--sign")
    assert done.exit_code == 0, done.output
    assert "wrong tensors" in done.stdout
    assert "largest error relative" not in done.stdout, "tensors are listed with --tensors"
    signed = read(read_gguf(lab.gguf("f16")))
    assert signed
    assert signed.compared_tensors == len(read_gguf(lab.gguf("f16")).tensors)
    lab.gguf("f16").unlink()  # it is signed now
    lab.gguf("f16")


def test_bundled_checkpoint_is_shown_by_its_name(demo_gguf: Path) -> None:
    words = ["verify", str(demo_gguf), "--against", "demo", "--positions", "100"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "compared with demo\n" in done.stdout
    assert "demo_model" not in done.stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["reference"] == "demo"


def test_gguf_is_verified_against_another_gguf(lab: Lab, tmp_path: Path) -> None:
    done = verify(lab, lab.gguf("q4_0"), against=lab.gguf("f16"))
    assert done.exit_code == 0, done.output
    assert "no limits" in done.stdout
    assert "passed" not in done.stdout
    with_torch = json.loads(verify(lab, lab.gguf("q4_0"), "--json").stdout)["metrics"]
    without = json.loads(verify(lab, lab.gguf("q4_0"), "--json", against=lab.gguf("f16")).stdout)
    assert without["metrics"]["mean_kl"] == pytest.approx(with_torch["mean_kl"], rel=0.05)
    assert without["limits"] is None
    done = verify(lab, lab.gguf("f16"), "--tensors", against=lab.gguf("f32"))
    assert done.exit_code == 0, done.output
    bad = faulty(lab.gguf("f32"), tmp_path / "bad.gguf", WEIGHT_FAULTS["embedding shifted by one"])
    done = verify(lab, bad, against=lab.gguf("f32"))
    assert done.exit_code == 7
    assert "rows are shifted" in done.stderr
    done = verify(lab, lab.gguf("q4_0"), "--sign", against=lab.gguf("f16"))
    assert done.exit_code == 2
    assert "--sign" in done.stderr


@pytest.mark.parametrize(
    ("family", "write", "overrides"),
    [
        ("gptj", old_gptj, {}),
        ("gptbigcode", old_starcoder, {"tie_word_embeddings": True}),
        ("gptneox", old_neox, {"intermediate_size": 1024}),
    ],
)
def test_old_ggml_file_is_imported_and_verified(
    family: str, write: Callable[..., Path], overrides: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint", **overrides)
    old = write(checkpoint, tmp_path / "old.bin", "Q8_0")
    arguments = ["--positions", "300", "--tensors", "--json"]
    done = CliRunner().invoke(app, ["verify", str(old), "--against", str(checkpoint), *arguments])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["passed"], report["type_name"]) == (True, "Q8_0")
    assert report["candidate"] == f"{old}.gguf"
    assert all(t["relative"] == 0 for t in report["tensors"] if t["type_name"] == "F32")


def test_gguf_is_verified_against_an_old_ggml_file(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("gptj", tmp_path / "checkpoint")
    old = old_gptj(checkpoint, tmp_path / "old.bin", "F16")
    convert(checkpoint, tmp_path / "new.gguf", dtype="f16")
    arguments = [str(tmp_path / "new.gguf"), "--against", str(old), "--positions", "100"]
    done = CliRunner().invoke(app, ["verify", *arguments])
    assert done.exit_code == 0, done.output
    assert "old.bin.gguf" in done.stdout


def test_gguf_continues_like_its_checkpoint(lab: Lab) -> None:
    gguf = GgufReference(lab.gguf("f32"))
    assert gguf.continued(range(20), 12) == lab.reference.continued(range(20), 12)
    gguf.close()


def test_html_report_is_written(lab: Lab, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = verify(lab, lab.gguf("f16"), lab.gguf("q4_0"), "--tensors", "--report", page)
    assert done.exit_code == 0, done.output
    text = page.read_text("utf-8")
    assert text.lower().startswith("<!doctype html>")
    assert "q4_0.gguf" in text
    assert "<svg" in text
    assert verify(lab, lab.gguf("f16"), "--report", tmp_path / "absent" / "x.html").exit_code == 2


def test_other_model_or_vocabulary_fails(lab: Lab, tmp_path: Path) -> None:
    other = tiny_checkpoint("codegen", tmp_path / "other")
    convert(other, tmp_path / "other.gguf")
    done = verify(lab, tmp_path / "other.gguf")
    assert done.exit_code == 7
    assert "vocabulary rows" in done.stderr or "tokenized differently" in done.stderr


def test_incompatible_options_are_rejected(lab: Lab, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("x = 1")
    for words in (["--full"], ["--prompts", prompts], ["--dtype", "f8"], ["--device", "toaster"]):
        done = verify(lab, lab.gguf("f16"), *words)
        assert done.exit_code == 2, words
        assert "hint:" in done.stderr
    prompts.write_bytes(b"\xff\xfe\x00")
    done = CliRunner().invoke(
        app,
        ["verify", str(lab.gguf("f16")), "--against", str(lab.checkpoint), "--text", str(prompts)],
    )
    assert done.exit_code == 2
    assert "UTF-8" in done.stderr


def test_verify_works_as_a_library(lab: Lab) -> None:
    reports = list(run_verify([lab.gguf("f16")], lab.checkpoint, VerifyOptions(positions=300)))
    assert [r.passed for r in reports] == [True]
    assert reports[0].continuations is not None
    assert reports[0].tokens.ids > 20_000


def test_full_measures_the_whole_context(tmp_path: Path) -> None:
    lab = Lab("starcoder2", tmp_path, max_position_embeddings=192, num_hidden_layers=1)
    done = CliRunner().invoke(
        app, ["verify", str(lab.gguf("f16")), "--against", str(lab.checkpoint), "--full", "--json"]
    )
    assert done.exit_code == 0, done.output
    windows = json.loads(done.stdout)["windows"]
    context = next(w for w in windows if w["kind"] == "context")
    assert context["measured"] == context["tokens"] == lab.reference.n_ctx == 192
