"""llama.cpp in a process of its own: started, followed, and ended with ours. A leaf: imports nothing of ours.

A process of its own because llama.cpp cannot be interrupted from Python while it works, because it aborts on some
broken files, and because what it takes of memory can be measured there. The child is a module of ours with a
`main()`; it reads its job, one JSON object, from stdin, and writes JSON lines to stdout: llama.cpp's own words as
[level, text], and whatever it has to tell as an object.

The parent's side is `run_child`, the child's are `read_job`, `listen`, `tell` and `leave`.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NoReturn

_LOG_WARN, _LOG_ERROR = 3, 4  # enum ggml_log_level
_ROOT = Path(__file__).parents[2]
Hear = Callable[[Mapping[str, Any]], None]
HearLine = Callable[[str], None]


@dataclass(slots=True)
class Words:
    """What llama.cpp said: the last of it, for errors, and its warnings, for reports."""

    tail: deque[str] = field(default_factory=lambda: deque(maxlen=40))
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The most telling words: its errors, or else the last thing it said."""
        said = self.errors or [line for line in self.tail if line.strip()][-3:]
        return " / ".join(line.strip() for line in said) or "it said nothing"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        code: 0 where all went well; below 0 the signal that ended it.
        words: llama.cpp's.
        last_words: what was written to stderr: a traceback, or an assertion of llama.cpp's.
    """

    code: int
    words: Words
    last_words: str

    @property
    def why(self) -> str:
        """How it failed, and the reason as far as it is known, for a message: "failed: …"."""
        said = self.last_words or self.words.reason()
        how = f"was ended by signal {-self.code}" if self.code < 0 else "failed"
        return f"{how}: {said[-2000:]}"


def run_child(
    module: str,
    job: Mapping[str, Any],
    *,
    hear: Hear = lambda told: None,
    hear_line: HearLine = lambda line: None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run a module's `main()` in a process of its own, and follow it to its end.

    Args:
        module: imported by its full name, as `python -m` does.
        job: what `read_job` returns there; JSON.
        hear: gets what the child `tell`s.
        hear_line: gets llama.cpp's log as it grows, from the beginning of its present line on.
        env: environment variables beside ours.

    Whatever interrupts us (Ctrl-C, an exception of `hear`) ends the child before it passes on.
    """
    environment = {
        **os.environ,
        "GGML_NO_BACKTRACE": "1",  # where llama.cpp aborts, it would call gdb on itself
        "PYTHONPATH": os.pathsep.join(p for p in [str(_ROOT), *sys.path] if p),
        **(env or {}),
    }
    words = Words()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            follow(process.stdout, words, hear, hear_line)
            code = process.wait()
        finally:
            process.kill()  # Ctrl-C lands here: llama.cpp would otherwise work on to the end
            process.wait()
            process.stdin.close()
            process.stdout.close()
        stderr.seek(0)
        return Ended(code, words, stderr.read().strip())


def follow(stdout: IO[str], words: Words, hear: Hear, hear_line: HearLine) -> None:
    """Read a child's lines until it closes its end."""
    line = ""
    for record in stdout:
        told = _parsed(record)
        if isinstance(told, dict):
            hear(told)
            continue
        if told is None:  # not ours: what a dying process or its debugger prints
            words.tail.append(record)
            continue
        level, text = told
        if level == _LOG_ERROR:
            words.errors.append(text)
        elif level == _LOG_WARN:
            words.warnings.append(text.strip())
        line += text
        hear_line(line)
        if line.endswith("\n"):
            words.tail.append(line)
            line = ""


def _parsed(record: str) -> dict[str, Any] | tuple[int, str] | None:
    try:
        match json.loads(record):
            case dict() as told:
                return told
            case [int() as level, str() as text]:
                return level, text
    except ValueError:
        pass
    return None


# What the child uses.

_kept: Final[list[Any]] = []  # C's pointers into Python: what is collected crashes the process


def read_job() -> dict[str, Any]:
    """The job; from now on this process ends when its parent does."""
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    return job


def listen(llama_cpp: Any) -> None:
    """Pass on everything that llama.cpp says. Takes the library, so that this module need not import it."""

    def log(level: int, text: bytes, user_data: Any) -> None:
        _write([level, text.decode("utf-8", "replace")])

    callback = llama_cpp.llama_log_callback(log)
    _kept.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))


def tell(told: Mapping[str, Any]) -> None:
    """Send an object to the parent's `hear`."""
    _write(told)


def leave(code: int) -> NoReturn:
    """End, without tidying up: the system does that, and llama.cpp takes long over it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _leave_with_parent() -> None:
    """The parent holds stdin open; when it dies, even by kill -9, reading ends and so do we."""
    while sys.stdin.read(1):
        pass
    os._exit(1)
