"""The command line: exit codes, errors with hints, help with examples, and --json."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from turbopilot.base import errors
from turbopilot.base.version import __version__
from turbopilot.cli import app

ROOT = Path(__file__).parents[2]
VERBS = (
    "download", "convert", "imatrix", "quantize", "verify", "serve", "complete", "top", "editors", "inspect", "bench",
    "doctor",
)  # fmt: skip


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_version_option_prints_the_version() -> None:
    assert run("--version") == (0, f"turbopilot {__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples(verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"Example: turbopilot {verb} " in " ".join(out.split())


def test_serve_help_has_sections() -> None:
    _, out, _ = run("serve", "--help")
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    sections = [
        "Models:",
        "Server:",
        "Model:",
        "Devices:",
        "Upstreams:",
        "Requests:",
        "Security:",
        "Log:",
    ]
    assert titles == ["Arguments:", "Options:", *sections]


def test_missing_arguments_show_usage() -> None:
    for arguments in ([], ["convert"], ["imatrix"], ["quantize"], ["download"]):
        code, out, err = run(*arguments)
        assert code == 2
        assert "Usage:" in out + err


def subclasses(kind: type[errors.TurboPilotError]) -> list[type[errors.TurboPilotError]]:
    return [kind, *(s for k in kind.__subclasses__() for s in subclasses(k))]


ERRORS = [k for k in subclasses(errors.TurboPilotError) if k.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda k: k.__name__)
def test_every_error_has_its_exit_code_and_hint(
    kind: type[errors.TurboPilotError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object, **__: object) -> None:
        raise kind("it [bold]broke[/] here", hint="fix it")

    monkeypatch.setattr("turbopilot.app.resolve.resolve_checkpoint", boom)
    code, out, err = run("convert", "anything")
    assert code == kind.exit_code
    assert out == ""
    assert "error: it [bold]broke[/] here" in err, "markup in a message is printed as text"
    assert "hint: fix it" in err
    assert "Traceback" not in err


def test_exit_codes_are_stable() -> None:
    kinds = {k.__name__: k.exit_code for k in subclasses(errors.TurboPilotError)}
    assert kinds["InvalidInput"] == kinds["CorruptModel"] == 2
    assert kinds["HubUnreachable"] == 3
    assert kinds["UnsupportedModel"] == 4
    assert kinds["TensorMismatch"] == kinds["CorruptCheckpoint"] == 5
    assert kinds["QuantizationError"] == 6
    assert kinds["VerificationFailed"] == 7
    assert kinds["Overloaded"] == 8


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("turbopilot.app.resolve.resolve_checkpoint", interrupt)
    code, _, err = run("convert", "anything")
    assert code == 130
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert", "nowhere"], 2, ["nowhere: unknown model name", "turbopilot models"]),
        (["convert", "./nowhere"], 2, ["./nowhere: no such file"]),
        (["convert", "Salesforce/codegen-350M-mono"], 3, ["HF_HUB_OFFLINE is set"]),
        (["convert", "demo", "--to", "gguff"], 2, ["did you mean gguf"]),
        (["convert", "demo", "--dtype", "f61"], 2, ["did you mean f16"]),
        (["quantize", "nothing.gguf", "Q4_0"], 2, ["nothing.gguf", "no such file"]),
        (["quantize", "nothing.gguf", "Q4_P"], 2, ["Q4_P", "did you mean"]),
        (["quantize", "nothing.gguf"], 2, ["--list"]),
        (["verify", "nothing.gguf", "--against", "demo"], 2, ["nothing.gguf"]),
        (["serve", "nothing.gguf"], 2, ["nothing.gguf"]),
        (["serve", "--ngl", "many"], 2, ["many"]),
        (["download", "no-slash"], 2, ["owner/name"]),
        (["download", "a/b/c"], 2, ["owner/name"]),
        (["convert", "x" * 300], 2, ["not a valid path"]),
        (["convert", "demo", "-o", "x" * 300], 2, ["not a valid file name", "-o"]),
        (["convert", "demo", "-o", "."], 2, ["is a folder"]),
        (["convert", "demo", "-o", "no/where.gguf"], 2, ["no such folder", "mkdir -p no"]),
        (["quantize", "x" * 300, "Q4_0"], 2, ["not a valid path"]),
        (["quantize", "nothing.gguf", "Q4_0", "-t", "many"], 2, ["--threads"]),
        (["quantize", "nothing.gguf", "Q4_0", "-t", "-1"], 2, ["--threads"]),
        (["verify", "nothing.gguf"], 2, ["--against"]),
        (["serve", "-m", "codgen"], 2, ["did you mean codegen"]),
        (["serve", "--port", "70000"], 2, ["--port"]),
        (["convert", "demo", "--frob"], 2, ["--frob"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_bad_input_is_rejected(
    arguments: list[str],
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*arguments)
    assert got == code, err
    assert out == ""
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_convert_and_quantize_report_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", "demo", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["path"] == "turbopilot-demo-f16.gguf"
    assert report["has_fim"]
    assert report["n_bytes"] == (tmp_path / report["path"]).stat().st_size
    assert err == "", "no progress in a pipe"
    code, out, err = run("quantize", "turbopilot-demo-f16.gguf", "q4_k", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["path"] == "turbopilot-demo-q4_k_m.gguf"
    assert report["source"] == "turbopilot-demo-f16.gguf"
    assert report["recipe"] == "Q4_K_M"
    assert report["bits_after"] < report["bits_before"]
    assert report["bytes_after"] == (tmp_path / report["path"]).stat().st_size
    assert err == ""
    code, _, err = run("convert", "demo")
    assert code == 2
    assert "--force" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "turbopilot-demo-f16.gguf",
        "turbopilot-demo-q4_k_m.gguf",
    ]


def test_convert_and_quantize_report_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", "demo", "--dtype", "F32", "-o", "mine-f32.gguf")
    assert code == 0, err
    assert out.startswith("mine-f32.gguf: CodeGenForCausalLM → phi2")
    assert "with fill-in-the-middle" in out
    assert err == "next: turbopilot verify mine-f32.gguf --against demo\n"
    code, out, err = run("quantize", "mine-f32.gguf", "Q8_0")
    assert code == 0, err
    assert out.startswith("mine-q8_0.gguf (Q8_0")
    assert "before" in out
    assert "after" in out
    assert "Q8_0 5.6 MB" in out
    assert err == ""


def test_codegen_is_exported_as_gptj(tmp_path: Path) -> None:
    code, out, err = run("convert", "demo", "--to", "gptj", "-o", str(tmp_path / "gptj"), "--json")
    assert code == 0, err
    assert json.loads(out)["path"] == str(tmp_path / "gptj")
    config = json.loads((tmp_path / "gptj" / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["GPTJForCausalLM"]


def test_plan_and_type_list_are_shown() -> None:
    code, out, _ = run("convert", "demo", "--dry-run")
    assert code == 0
    assert "CodeGenForCausalLM → phi2" in out
    plan = json.loads(run("convert", "demo", "--dry-run", "--json")[1])["plan"]
    assert plan == out.rstrip().splitlines()
    code, out, _ = run("quantize", "--list")
    assert code == 0
    assert "Q4_K_M" in out
    assert json.loads(run("quantize", "--list", "--json")[1])["types"]


def turbopilot(*arguments: str, cwd: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program in a new process, after the Python code in `before`."""
    script = (
        f"import sys\n{before}\nfrom turbopilot.cli import main\n"
        f"sys.argv = ['turbopilot', *{list(arguments)!r}]\nmain()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["convert", "quantize"])
def test_ctrl_c_during_work_leaves_no_file(demo_gguf: Path, tmp_path: Path, verb: str) -> None:
    # The process sends itself SIGINT at the first report of progress, so the test does not depend on timing.
    interrupt = """
import os, signal
from contextlib import nullcontext
from turbopilot.render import console
console.progress = lambda verb: nullcontext(lambda *_: os.kill(os.getpid(), signal.SIGINT))
"""
    arguments = {
        "convert": ["convert", "demo", "-o", "out.gguf"],
        "quantize": ["quantize", str(demo_gguf), "Q4_0", "-o", "out.gguf"],
    }[verb]
    done = turbopilot(*arguments, cwd=tmp_path, before=interrupt)
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr == "error: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_hostile_tensor_name_is_escaped_in_an_error(tmp_path: Path) -> None:
    """Invalid UTF-8, Rich markup and terminal codes in a tensor name are printed escaped."""
    name = b"\xff\xfe[bold]\x1b[31m"
    raw = b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, len(name)) + name
    (tmp_path / "bad.gguf").write_bytes(raw + struct.pack("<IQIQ", 1, 0, 0, 0))
    done = turbopilot("quantize", "bad.gguf", "Q4_0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "[bold]" in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_python_m_turbopilot_runs_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbopilot", "convert", "nowhere"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: nowhere")
