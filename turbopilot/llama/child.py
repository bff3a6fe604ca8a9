"""Run llama.cpp in a child process, which exits with its parent.

llama.cpp cannot be interrupted from Python and aborts on some broken files, and its memory can only be measured well in
a separate process. The child is a module that calls `run_job`. It reads its job, a JSON object, from stdin, and writes
JSON lines to stdout: llama.cpp's log as [level, text], and messages as objects.
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
# `python -m` would search for modules in the current folder first, which may be an untrusted checkpoint.
_START: Final = (
    "import sys; sys.path = [p for p in sys.path if p]; import runpy; "
    "runpy.run_module(sys.argv[1], run_name='__main__')"
)
_INFO: Final = 2  # enum ggml_log_level

Message = Mapping[str, Any]
Job = dict[str, Any]


class ChildFailed(ServeError):
    """A child process failed. The message is "failed: …" or "was terminated by signal …".

    `code` is the exit code, or the negative signal number. `last_words` is the child's stderr, or llama.cpp's last
    errors if stderr is empty.
    """

    def __init__(self, code: int, last_words: str, how: str = "") -> None:
        how = how or (f"was terminated by signal {-code}" if code < 0 else "failed")
        super().__init__(f"{how}: {last_words[-2000:]}")
        self.code, self.last_words = code, last_words


def run_child(
    module: str,
    job: Message,
    *,
    on_message: Callable[[Message], None] = lambda message: None,
    on_log: Callable[[str], None] = lambda line: None,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> LlamaLog:
    """Run a module that calls `run_job` in a child process until it exits; kill it after `timeout` seconds.

    Ctrl-C, or an exception in a callback, kills the child before it propagates. `on_message` receives each object that
    the child sends. `on_log` receives the current line of llama.cpp's log, again with each piece that is added. A
    TurboPilotError in the child is raised again here. `environment` is added to this process's environment.

    Raises:
        ChildFailed: the child failed in any other way.
    """
    log, raised = LlamaLog(), list[TurboPilotError]()

    def receive(message: Message) -> None:
        if "error" in message:
            kind: type[TurboPilotError] = getattr(errors, message["error"], TurboPilotError)
            raised.append(kind(message["message"], hint=message["hint"]))
        else:
            on_message(message)

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = _start(module, stderr, environment or {})
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(timeout or 0, process.kill)
        try:
            if timeout is not None:
                timer.start()
            with suppress(BrokenPipeError):  # the child exited before reading its job
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            follow(process.stdout, log, receive, on_log)
            code = process.wait()
        finally:
            late = timeout is not None and not timer.is_alive()
            timer.cancel()
            process.kill()  # still running after Ctrl-C or an exception
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


def _start(module: str, stderr: IO[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    path = [str(Path(p).absolute()) for p in [str(_ROOT), *sys.path] if p]
    # Without GGML_NO_BACKTRACE, llama.cpp starts gdb when it aborts.
    ours = {"GGML_NO_BACKTRACE": "1", "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.Popen(
        [sys.executable, "-c", _START, module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **ours, **environment},
        encoding="utf-8", errors="replace",
    )  # fmt: skip


def follow(
    stdout: IO[str],
    log: LlamaLog,
    on_message: Callable[[Message], None],
    on_log: Callable[[str], None],
) -> None:
    """Process a child's output until it closes stdout."""
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
            case _:  # output of a crashing process or its debugger
                log.write(_INFO, f"\n{record}")


def _parsed(record: str) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return None


def run_job(work: Callable[[Job], None]) -> NoReturn:
    """Run `work` with the job from stdin and exit. The process also exits when its parent does.

    `run_child` raises a TurboPilotError of `work` again. `work` calls sys.exit(1) if it failed for a reason that is in
    llama.cpp's log.
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
    os._exit(code)  # skips llama.cpp's cleanup, which is slow


def send(message: Any) -> None:
    """Send an object to the parent's `on_message`."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _exit_with_parent() -> None:
    """Exit this process when stdin closes, which happens even if the parent is killed with SIGKILL."""
    while sys.stdin.read(1):
        pass
    os._exit(1)
