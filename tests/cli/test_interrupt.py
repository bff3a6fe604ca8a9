"""Ctrl-C ends the program without a traceback, also before the command line is parsed. So does a closed stderr."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_AT_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["turbopilot", "models", "--json"]
from turbopilot.__main__ import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("module", ["turbopilot.cli", "typer", "turbopilot.catalog"])
def test_interrupt_while_modules_load_shows_no_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AT_IMPORT.format(module=module)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (-signal.SIGINT, 130)  # a shell reports both as 130
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ignored_interrupt_stays_ignored() -> None:
    """Under nohup, or in a shell's background job, Ctrl-C in the terminal does not concern the program."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + _AT_IMPORT.format(
        module="typer"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


def test_exit_code_stays_the_same_if_stderr_is_closed() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "turbopilot", "inspect", "missing.gguf"],
        stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stderr
        process.stderr.close()
        assert process.wait(100) == 2
