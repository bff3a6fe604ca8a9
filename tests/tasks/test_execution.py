"""Programs of a model run in isolation, and harm nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.tasks import execution
from turbopilot.tasks.execution import passes
from turbopilot.tasks.suite import SUITES


def can_isolate() -> bool:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return False
    abi = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return int(abi) >= 1 and "Seccomp_filters:" in Path("/proc/self/status").read_text()


isolated = pytest.mark.skipif(not can_isolate(), reason="this machine cannot isolate programs")


@isolated
@pytest.mark.parametrize("name", SUITES)
def test_solutions_pass_and_empty_gaps_fail(name: str) -> None:
    tasks = SUITES[name].sample(4, seed=1)
    assert [passes(t.program(t.solution)) for t in tasks] == [True] * 4
    assert [passes(t.program("?")) for t in tasks] == [False] * 4


HARMFUL = {
    "forks": "import os\nos.fork()",
    "starts a thread": "import threading\nthreading.Thread(target=print).start()",
    "starts a program": "import subprocess\nsubprocess.run(['true'], check=True)",
    "writes a file": "open('{folder}/new', 'w').write('x')",
    "overwrites a file": "open('{folder}/old', 'a').write('x')",
    "removes a file": "import os\nos.unlink('{folder}/old')",
    "changes a file's mode": "import os\nos.chmod('{folder}/old', 0)",
    "changes a file's time": "import os\nos.utime('{folder}/old', (0, 0))",
    "reads a file": "open('{folder}/old').read()",
    "opens a socket": "import socket\nsocket.socket()",
    "allocates 10 GB": "x = bytearray(10 << 30)",
    "maps 10 GB": "import mmap\nmmap.mmap(-1, 10 << 30)",
    "kills its parent": "import os, signal\nos.kill({parent}, signal.SIGTERM)",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
    "ends early": "import os\nos._exit(0)",
    "exits": "raise SystemExit(0)",
    "writes to descriptors": "import os\nfor i in range(3, 64):\n  os.write(i, b'x')",
}


@isolated
@pytest.mark.parametrize("harm", HARMFUL)
def test_harmful_program_fails(tmp_path: Path, harm: str) -> None:
    old = tmp_path / "old"
    old.write_text("content")
    before = old.stat()
    program = HARMFUL[harm].replace("{folder}", str(tmp_path)).replace("{parent}", str(os.getpid()))
    assert not passes(program)
    after = old.stat()
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert old.read_text() == "content"
    assert (before.st_mode, before.st_mtime) == (after.st_mode, after.st_mtime)


@isolated
def test_endless_programs_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "CPU_SECONDS", 1)
    assert not passes("while True: pass")
    monkeypatch.setattr(execution, "WALL_SECONDS", 0.5)
    assert not passes("import time\ntime.sleep(1000)")


@isolated
def test_output_of_a_program_is_ignored() -> None:
    assert passes("print('x' * 1_000_000)\nimport sys\nsys.stderr.write('y' * 1_000_000)")


def test_nothing_runs_without_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(InvalidInput, match="cannot isolate"):
        passes("")
