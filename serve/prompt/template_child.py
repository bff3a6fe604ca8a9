"""Process that renders one chat template, so that a hostile template cannot harm the server.

`serve.prompt.chat_template` starts it. It reads JSON lines: first {"source", "bos", "eos"}, then the messages of each
prompt. It answers each with a JSON line: [true, prompt] or [false, reason]. The template is compiled for the first
prompt, because Jinja computes constant expressions while it compiles.

The template runs in Jinja's sandbox, within MEMORY_BYTES and CPU_SECONDS. The process cannot open files or sockets, so
an escape from the sandbox gains little. Windows has none of these limits, and macOS does not limit memory: there, only
the parent's time limit applies.
"""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import suppress
from typing import Any, Final, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Address space of the process: 10 copies of the largest request (8 MiB) at 4 bytes per character, and Python itself.
MEMORY_BYTES: Final = 512 * 2**20
# For one prompt. Templates of known models take milliseconds for thousands of messages.
CPU_SECONDS: Final = 3
# Jinja imports some modules on demand, so they are used once before files can no longer be opened.
_WARM_UP: Final = r"{{ '\n\N{BULLET}' | striptags | wordwrap | pprint }}{{ lipsum() }}{{ 1 // 0 }}"
# A template decides how long its error message is.
MAX_REASON: Final = 300


def main() -> None:
    """Render prompts until stdin ends."""
    setup = json.loads(sys.stdin.readline())
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    tokens = {"bos_token": setup["bos"], "eos_token": setup["eos"]}
    with suppress(ZeroDivisionError):  # error handling is imported on demand too
        environment.from_string(_WARM_UP).render()
    _confine()
    template = None
    for line in sys.stdin:
        _limit_cpu()
        failure = "is invalid"
        try:
            template = template or environment.from_string(setup["source"])
            failure = "rejects the messages"
            messages = json.loads(line)
            prompt = template.render(messages=messages, add_generation_prompt=True, **tokens)
            answer = json.dumps([True, prompt])
        except MemoryError:
            return
        except Exception as e:
            reason = str(e)[:MAX_REASON] or type(e).__name__
            answer = json.dumps([False, f"{failure}: {reason}"])
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _confine() -> None:
    """Limit the memory of this process, and keep it from opening, writing and starting anything."""
    if sys.platform == "win32":
        return
    import resource

    _set_limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_FSIZE, 0)  # pipes do not count
    _set_limit(resource.RLIMIT_NPROC, 0)
    _set_limit(resource.RLIMIT_NOFILE, 3)  # stdin, stdout and stderr are open


def _set_limit(kind: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # not supported by the system
        resource.setrlimit(kind, (value, value))


def _limit_cpu() -> None:
    """Let SIGXCPU end this process after CPU_SECONDS more seconds of processor time."""
    if sys.platform == "win32":
        return
    import resource

    hard: Any = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = math.ceil(time.process_time()) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
