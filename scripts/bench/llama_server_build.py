"""Compilation of llama-server from llama.cpp's source, for the backend that our own llama.cpp was compiled for."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from turbopilot.base.backends import BACKENDS, CPU, Backend, is_built, library_folder

_OFF = (
    "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI",
    "LLAMA_USE_PREBUILT_UI",
)  # fmt: skip


def installed_backend() -> Backend:
    """Return the backend of the installed llama.cpp; the best if it has several."""
    libraries = library_folder()
    return next((b for b in BACKENDS if libraries and is_built(b.name, libraries)), CPU)


def build_llama_server(source: Path, build: Path) -> Path:
    """Compile the server and return its path.

    Raises:
        SystemExit: the compilation failed.
    """
    backend = installed_backend()
    options = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{name}=OFF" for name in _OFF), *backend.cmake]
    configure = shlex.join(["cmake", "-S", str(source), "-B", str(build), *options])
    jobs = str(os.cpu_count() or 1)
    compile_it = shlex.join(
        ["cmake", "--build", str(build), "-j", jobs, "--target", "llama-server"]
    )
    print(f"compiling llama-server for {backend.name}", file=sys.stderr, flush=True)
    # A shell, because the setup of a backend calls its tools: HIPCXX="$(hipconfig -l)/clang".
    script = f"{backend.setup} {configure} && {compile_it}".strip()
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"llama-server could not be compiled:\n{done.stdout[-3000:]}")
    return build / "bin" / "llama-server"
