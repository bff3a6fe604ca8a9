"""A child process for tests: does what its job says."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from turbopilot.base.errors import CorruptModel
from turbopilot.llama.child import run_job, send
from turbopilot.llama.library import log


def work(job: dict[str, Any]) -> None:
    match job["do"]:
        case "talk":
            send({"heard": "talk"})
            log.write(2, "half ")
            log.write(5, "a line\n")
        case "raise":
            raise CorruptModel("x.gguf: broken", hint="download it again")
        case "exit":
            log.write(4, "the reason\n")
            sys.exit(1)
        case "abort":
            os.abort()
        case "wait":
            threading.Event().wait()
        case _:
            job["no such key"]


if __name__ == "__main__":
    run_job(work)
