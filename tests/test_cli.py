"""The command line as a person meets it: exit codes, errors with hints, help with examples, --json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turbopilot import errors
from turbopilot.cli import app
from turbopilot.version import __version__

VERBS = ("download", "convert", "quantize", "verify", "serve")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_version() -> None:
    assert run("--version") == (0, f"turbopilot {__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_example(verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"turbopilot {verb}" in " ".join(out.split()), "an example"


def subclasses(kind: type[errors.TurboPilotError]) -> list[type[errors.TurboPilotError]]:
    return [kind, *(s for k in kind.__subclasses__() for s in subclasses(k))]


@pytest.mark.parametrize("kind", subclasses(errors.TurboPilotError), ids=lambda k: k.__name__)
def test_every_error_has_its_exit_code_and_hint(
    kind: type[errors.TurboPilotError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise kind("it [bold]broke[/] here", hint="mend it")

    monkeypatch.setattr("turbopilot.commands.resolve.resolve_checkpoint", boom)
    code, out, err = run("convert", "anything")
    assert code == kind.exit_code
    assert out == ""
    assert "error: it [bold]broke[/] here" in err, "markup in a message is shown, not obeyed"
    assert "hint: mend it" in err
    assert "Traceback" not in err


def test_the_documented_exit_codes() -> None:
    kinds = {k.__name__: k.exit_code for k in subclasses(errors.TurboPilotError)}
    assert kinds["InvalidInput"] == kinds["CorruptModel"] == 2
    assert kinds["HubUnreachable"] == 3
    assert kinds["UnsupportedModel"] == 4
    assert kinds["TensorMismatch"] == kinds["CorruptCheckpoint"] == 5
    assert kinds["QuantizationError"] == 6
    assert kinds["VerificationFailed"] == 7
    assert kinds["Overloaded"] == 8


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("turbopilot.commands.resolve.resolve_checkpoint", interrupt)
    code, _, err = run("convert", "anything")
    assert code == 130
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert", "nowhere"], 2, ["nowhere", "no such folder"]),
        (["convert", "Salesforce/codegen-350M-mono"], 2, ["turbopilot download"]),
        (["convert", "demo", "--to", "gguff"], 2, ["did you mean gguf"]),
        (["convert", "demo", "--dtype", "f61"], 2, ["did you mean f16"]),
        (["quantize", "nothing.gguf", "Q4_0"], 2, ["nothing.gguf", "no such file"]),
        (["quantize", "nothing.gguf", "Q4_P"], 2, ["Q4_P", "did you mean"]),
        (["quantize", "nothing.gguf"], 2, ["--list"]),
        (["verify", "nothing.gguf", "--against", "demo"], 2, ["nothing.gguf"]),
        (["serve", "nothing.gguf"], 2, ["nothing.gguf"]),
        (["serve", "--ngl", "many"], 2, ["many"]),
        (["download", "no-slash"], 2, ["owner/name"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_bad_input(arguments: list[str], code: int, words: list[str]) -> None:
    got, out, err = run(*arguments)
    assert got == code, err
    assert out == ""
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def test_a_checkpoint_is_not_served(demo_checkpoint: Path) -> None:
    code, _, err = run("serve", str(demo_checkpoint))
    assert code == 2
    assert "turbopilot convert" in err


def test_from_checkpoint_to_quantized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", "demo", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["path"] == "turbopilot-demo-f16.gguf"
    assert report["has_fim"]
    code, out, err = run("quantize", "turbopilot-demo-f16.gguf", "q4_k", "--json")
    assert code == 0, err
    assert json.loads(out)["path"] == "turbopilot-demo-q4_k_m.gguf"
    code, _, err = run("convert", "demo")
    assert code == 2
    assert "--force" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "turbopilot-demo-f16.gguf",
        "turbopilot-demo-q4_k_m.gguf",
    ]


def test_the_plan_and_the_list_are_shown() -> None:
    code, out, _ = run("convert", "demo", "--dry-run")
    assert code == 0
    assert "CodeGenForCausalLM → phi2" in out
    code, out, _ = run("quantize", "--list")
    assert code == 0
    assert "Q4_K_M" in out
    assert json.loads(run("quantize", "--list", "--json")[1])["types"]


def test_the_installed_script(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "convert", "nowhere"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: nowhere")
