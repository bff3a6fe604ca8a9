"""Chat templates: from messages to the prompt format that a model was trained on.

A template is a program in a downloaded file. It runs in a process of its own, `serve.prompt.template_child`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turbopilot.base.errors import InvalidRequest, Overloaded

# Time limit for one prompt, if the limits of the process do not end it earlier. Also the time for which a request
# waits while other threads use the template.
SECONDS: Final = 20.0
# Maximum size of an answer of the process, in bytes. Four times the largest request.
MAX_ANSWER: Final = 32 * 2**20

_ROOT: Final = Path(__file__).parents[2]
# Environment variables that Python may need; others can hold keys.
_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


class ChatTemplate:
    """Chat template of a model file. Callable from any thread.

    The first prompt starts the process, which stays for the next ones. If a template breaks a limit, the process ends,
    and the next prompt starts a new one.

    Args:
        source: the Jinja template.
        bos, eos: text of the begin-of-sequence and end-of-sequence tokens, or "".
        seconds: time limit for one prompt.
    """

    def __init__(
        self, source: str, *, bos: str = "", eos: str = "", seconds: float = SECONDS
    ) -> None:
        self._setup = {"source": source, "bos": bos, "eos": eos}
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt, up to the beginning of the assistant's answer.

        Raises:
            InvalidRequest: the template is invalid, breaks a limit or rejects the messages, such as a second system
                message.
            Overloaded: the template is in use by other requests for too long, or its process cannot be started.
        """
        said = [{"role": m.role, "content": m.content} for m in messages]
        if not self._lock.acquire(timeout=self._seconds):
            raise Overloaded("the model's chat template is busy", hint="try again later")
        try:
            match self._ask(said):
                case [True, str() as prompt]:
                    return prompt
                case [False, str() as reason]:
                    pass
                case _:
                    self._end()
                    reason = "takes too much time or memory; use /v1/completions instead"
        finally:
            self._lock.release()
        raise InvalidRequest(f"the model's chat template {reason}", param="messages")

    def close(self) -> None:
        """End the process, and a prompt that it renders."""
        if process := self._process:
            process.kill()
        with self._lock:
            self._end()

    def _ask(self, said: object) -> Any:
        """Return the answer of the process; None if it gives none within the limits."""
        lines = [said]
        if self._process and self._process.poll() is not None:
            self._end()
        if not self._process:
            lines = [self._setup, said]
            self._process = _start()
            self._finalizer = weakref.finalize(self, _kill, self._process)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        timer = threading.Timer(self._seconds, self._process.kill)
        try:
            timer.start()
            stdin.write("".join(json.dumps(line) + "\n" for line in lines).encode("ascii"))
            stdin.flush()
            return json.loads(stdout.readline(MAX_ANSWER))
        except (OSError, ValueError, RuntimeError):
            return None  # the process has ended or writes nonsense, or no thread can be started
        finally:
            timer.cancel()

    def _end(self) -> None:
        if self._process:
            self._process = None
            self._finalizer()


def _start() -> subprocess.Popen[bytes]:
    path = [str(_ROOT), *(str(Path(p).absolute()) for p in sys.path if p)]
    code = (
        f"import sys; sys.path[:] = {path!r}; from serve.prompt.template_child import main; main()"
    )
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,  # Ctrl-C must not end it before open requests end
            env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )  # fmt: skip
    except OSError as e:
        raise Overloaded(
            f"cannot start a process for the model's chat template: {e.strerror}",
            hint="try again later",
        ) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()  # closes the pipes, and waits
