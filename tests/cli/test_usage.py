"""Errors about the command line itself: the form `error:` / `hint:`, exit code 2, and the closest name."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from turbopilot.cli import app


def failed(*arguments: str, **environment: str) -> tuple[str, str]:
    """Return message and hint of a usage error; the output must consist of these two lines."""
    done = CliRunner().invoke(app, list(arguments), env=environment)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["serve", "--prot", "99"], "--prot: no such option", "did you mean --port? see turbopilot serve --help"),
        (["serve", "--n-gpu-layer=1"], "--n-gpu-layer: no such option",
         "did you mean --n-gpu-layers? see turbopilot serve --help"),
        (["convert", "demo", "-Z"], "-Z: no such option", "see turbopilot convert --help"),
        (["convert", "demo", "--\x1b[31m"], r"--\x1b[31m: no such option", "see turbopilot convert --help"),
        (["--verison"], "--verison: no such option", "did you mean --version? see turbopilot --help"),
        (["sevre"], "sevre: no such command", "did you mean serve? see turbopilot --help"),
        (["frobnicate", "--x"], "frobnicate: no such command", "see turbopilot --help"),
        (["verify", "x.gguf"], "--against is missing", "see turbopilot verify --help"),
        (["bench", "-t", "1"], "MODEL is missing", "see turbopilot bench --help"),
        (["models", "a", "b"], "unexpected argument: b", "see turbopilot models --help"),
        (["models", "a", "b", "c"], "unexpected arguments: b, c", "see turbopilot models --help"),
        (["serve", "--port", "many"], "--port many: must be a valid integer", "see turbopilot serve --help"),
        (["serve", "--port", "70000"], "--port 70000: must be less than or equal to 65535",
         "see turbopilot serve --help"),
        (["quantize", "a", "Q4_0", "-t", "-1"], "--threads -1: must be greater than or equal to 0",
         "see turbopilot quantize --help"),
        (["serve", "--port"], "--port: requires an argument", "see turbopilot serve --help"),
        (["models", "--json=x"], "--json: does not take a value", "see turbopilot models --help"),
    ],
)  # fmt: skip
def test_usage_error_has_message_and_hint(arguments: list[str], message: str, hint: str) -> None:
    assert failed(*arguments) == (message, hint)


def test_variable_with_a_bad_value_is_named() -> None:
    message, _ = failed("serve", TURBOPILOT_PORT="many")
    assert message == "TURBOPILOT_PORT many: must be a valid integer"
    message, _ = failed("serve", THREADS="many")
    assert message == "THREADS many: must be a valid integer"


def test_long_value_is_cut() -> None:
    message, _ = failed("serve", "--port", "9" * 10_000)
    assert len(message) < 200
    message, _ = failed("x" * 10_000)
    assert len(message) < 200


def test_help_is_shown_without_arguments() -> None:
    done = CliRunner().invoke(app, ["convert"])
    assert done.exit_code == 2
    assert "Usage: turbopilot convert" in done.output
    assert "error:" not in done.output
