"""Child process that runs one program in a sandbox; see `turbopilot.tasks.execution`.

It imports the standard library alone.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from typing import Final

from turbopilot.base.sandbox import restrict_program

STARTED: Final = b"+"  # written once the process is isolated


def main() -> None:
    """Run the job from stdin; write its word to stdout if the program ends without an error."""
    job = json.loads(sys.stdin.buffer.read())
    verdict = os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    # Modules of the standard library, and the libraries that compiled modules load.
    paths = sysconfig.get_paths()
    readable = (
        paths["stdlib"], paths["platstdlib"], "/lib", "/lib64", "/usr/lib", "/etc/ld.so.cache", "/dev/urandom",
    )  # fmt: skip
    isolated = restrict_program(memory=job["memory"], seconds=job["seconds"], readable=readable)
    if (
        not isolated or os.getppid() != job["parent"]
    ):  # the parent may have ended before its signal was requested
        os._exit(1)
    os.write(verdict, STARTED)
    word, program = job.pop("word"), job.pop("program")
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    except BaseException:
        os._exit(1)
    os.write(verdict, word.encode())
    os._exit(0)
