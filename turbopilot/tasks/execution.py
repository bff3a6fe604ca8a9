"""Execution of completed programs with their tests.

Each program runs in a child process that can only compute: it has no network, writes no file, starts no process, and
has limits for memory and time (see `turbopilot.base.sandbox`). Its verdict is a random word that the program does not
get. A program that looks for it in the frames of its own process could still pretend to pass: the verdict is for
models, not for attackers.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

from turbopilot.base.errors import InvalidInput
from turbopilot.tasks.execution_child import STARTED

CPU_SECONDS: Final = 5
WALL_SECONDS: Final = 30.0
MEMORY_BYTES: Final = 512 << 20

_ROOT: Final = Path(__file__).parents[2]
# -I and -S keep the environment, the user's packages and the current folder out of sys.path.
_COMMAND: Final = (
    sys.executable, "-I", "-S", "-B", "-c",
    "import sys; sys.path.append(sys.argv[1]); from turbopilot.tasks.execution_child import main; main()",
    str(_ROOT),
)  # fmt: skip


def passes(program: str) -> bool:
    """Return whether a program ends without an error.

    Raises:
        InvalidInput: this machine cannot isolate the program, so it did not run.
    """
    word = secrets.token_hex(16)
    job = {
        "program": program,
        "word": word,
        "memory": MEMORY_BYTES,
        "seconds": CPU_SECONDS,
        "parent": os.getpid(),
    }
    with subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={}
    ) as child:  # fmt: skip
        try:
            told, _ = child.communicate(json.dumps(job).encode(), timeout=WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            child.kill()
    if not told.startswith(STARTED):
        raise InvalidInput(
            "--execute: this machine cannot isolate the programs, so none was run",
            hint="it needs Linux 5.13 or newer with Landlock and seccomp, on x86-64 or ARM64",
        )
    return told == STARTED + word.encode()
