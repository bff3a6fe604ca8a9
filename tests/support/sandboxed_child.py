"""Child process for tests that enters the sandbox, then tries what it must not do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turbopilot.base.sandbox import restrict
from turbopilot.llama.child import run_job, send


def _names_of_refused(folder: Path, parent: int) -> list[str]:
    """Return the attempts that failed with PermissionError."""
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: (folder / "new").write_text("x"),
        "overwrite": lambda: (folder / "old").write_text("x"),
        "remove": lambda: (folder / "old").unlink(),
        "rename": lambda: (folder / "old").rename(folder / "other"),
        "link": lambda: (folder / "link").symlink_to("/"),
        "folder": lambda: (folder / "sub").mkdir(),
        "TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "Unix socket": lambda: socket.socket(socket.AF_UNIX),
        "program": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        "signal": lambda: os.kill(parent, 0),
        "read": (folder / "old").read_text,
    }
    refused = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except PermissionError:
            refused.append(name)
    return refused


def work(job: dict[str, Any]) -> None:
    active = restrict(memory=job.get("memory", 1 << 30), seconds=job.get("seconds", 60))
    match job["do"]:
        case "attempts":
            send({"active": sorted(active)})
            send({"refused": _names_of_refused(Path(job["folder"]), os.getppid())})
        case "allocate":
            sizes: list[bytearray] = []
            try:
                while len(sizes) < 1000:
                    sizes.append(bytearray(1 << 24))
            except MemoryError:
                n = len(sizes)
                del sizes
                send({"blocks": n})
        case "spin":
            while True:
                pass
        case "thread":  # a thread that is started in the sandbox is in it too
            thread = threading.Thread(
                target=lambda: send(
                    {"refused": _names_of_refused(Path(job["folder"]), os.getppid())}
                )
            )
            thread.start()
            thread.join()


if __name__ == "__main__":
    run_job(work)
