"""Reinstallation of llama.cpp."""

from __future__ import annotations

import os
import subprocess
import sys

from turbopilot.base.backends import Reinstallation
from turbopilot.base.errors import TurboPilotError


def reinstall(command: Reinstallation) -> None:
    """Run the command; its output goes to stderr.

    Raises:
        TurboPilotError: the command failed.
    """
    if os.name != "posix":
        raise TurboPilotError(
            "the command is for a POSIX shell",
            hint="set CMAKE_ARGS in your shell, and run the rest of it",
        )
    done = subprocess.run(["/bin/sh", "-c", command.shell], stdout=sys.stderr, check=False)
    if done.returncode:
        raise TurboPilotError(
            f"the reinstallation failed with exit code {done.returncode}",
            hint="its output above has the cause; docs/install.md lists what each backend needs",
        )
