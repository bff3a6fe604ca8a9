"""Run llama.cpp in a child process, which ends with ours.

llama.cpp cannot be interrupted from Python, aborts on some broken files, and its memory is measured best in a process
of its own. The child is a module that calls `run_job`. It reads its job, a JSON object, from stdin, and writes JSON
lines to stdout: llama.cpp's log as [level, text], and messages as objects.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from turbopilot.base import errors
from turbopilot.base.errors import ServeError, TurboPilotError
from turbopilot.llama.log import LlamaLog

_ROOT: Final = Path(__file__).parents[2]
# `python -m` would import modules from the current folder first, which may be an untrusted checkpoint.
_START: Final = (
    "import sys; sys.path = [p for p in sys.path if p]; import runpy; "
    "runpy.run_module(sys.argv[1], run_name='__main__')"
)
_INFO: Final = 2  # enum ggml_log_level

Message = Mapping[str, Any]
Job = dict[str, Any]


class ChildFailed(ServeError):
    """A child process failed; the message is "failed: …" or "was ended by signal …".

    `code` is the exit code, or minus the signal; `last_words` are its stderr, or else llama.cpp's errors.
    """

    def __init__(self, code: int, last_words: str, how: str = "") -> None:
        how = how or (f"was ended by signal {-code}" if code < 0 else "failed")
        super().__init__(f"{how}: {last_words[-2000:]}")
        self.code, self.last_words = code, last_words


def run_child(
    module: str,
    job: Message,
    *,
    on_message: Callable[[Message], None] = lambda message: None,
    on_log: Callable[[str], None] = lambda line: None,
    timeout: float | None = None,
) -> LlamaLog:
    """Run a module that calls `run_job` in a child process until it ends; kill it after `timeout` seconds.

    An interruption (Ctrl-C, an exception of a callback) ends the child first. `on_message` gets what the child sends,
    `on_log` llama.cpp's current line, from its start, as it grows. A TurboPilotError of the child is raised again.

    Raises:
        ChildFailed: the child ended in any other way.
    """
    log, raised = LlamaLog(), list[TurboPilotError]()

    def receive(message: Message) -> None:
        if "error" in message:
            kind: type[TurboPilotError] = getattr(errors, message["error"], TurboPilotError)
            raised.append(kind(message["message"], hint=message["hint"]))
        else:
            on_message(message)

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = _start(module, stderr)
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(timeout or 0, process.kill)
        try:
            if timeout is not None:
                timer.start()
            with suppress(BrokenPipeError):  # the child ended before reading its job
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            follow(process.stdout, log, receive, on_log)
            code = process.wait()
        finally:
            late = timeout is not None and not timer.is_alive()
            timer.cancel()
            process.kill()  # Ctrl-C arrives here
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
        if raised:
            raise raised[0]
        if code and late:
            raise ChildFailed(code, f"it took more than {timeout:.0f} seconds", how="failed")
        if code:
            stderr.seek(0)
            raise ChildFailed(code, stderr.read().strip() or log.reason())
    return log


def _start(module: str, stderr: IO[str]) -> subprocess.Popen[str]:
    path = [str(Path(p).absolute()) for p in [str(_ROOT), *sys.path] if p]
    # On an abort, llama.cpp would start gdb.
    environment = {"GGML_NO_BACKTRACE": "1", "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.Popen(
        [sys.executable, "-c", _START, module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **environment},
        encoding="utf-8", errors="replace",
    )  # fmt: skip


def follow(
    stdout: IO[str],
    log: LlamaLog,
    on_message: Callable[[Message], None],
    on_log: Callable[[str], None],
) -> None:
    """Read a child's lines until it closes stdout."""
    line = ""
    for record in stdout:
        match _parsed(record):
            case dict() as message:
                on_message(message)
            case [int() as level, str() as text]:
                log.write(level, text)
                line += text
                on_log(line)
                if line.endswith("\n"):
                    line = ""
            case _:  # printed by a crashing process or its debugger
                log.write(_INFO, f"\n{record}")


def _parsed(record: str) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return None


def run_job(work: Callable[[Job], None]) -> NoReturn:
    """Do the job from stdin and end this process, which also ends with its parent.

    `run_child` raises a TurboPilotError of `work` again. `work` calls sys.exit(1) if llama.cpp's log has the reason.
    """
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    code = 1
    try:
        from turbopilot.llama.library import log

        log.forward = lambda level, text: send([level, text])
        work(job)
        code = 0
    except TurboPilotError as e:
        send({"error": type(e).__name__, "message": e.message, "hint": e.hint})
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without llama.cpp's cleanup, which is slow


def send(message: Any) -> None:
    """Send an object to the parent's `on_message`."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _exit_with_parent() -> None:
    """End this process when stdin closes, as it does even if the parent is killed by SIGKILL."""
    while sys.stdin.read(1):
        pass
    os._exit(1)
