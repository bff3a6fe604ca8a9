"""Compilation of llama-server for the backend that our own llama.cpp was compiled for.

From the source of the installed llama-cpp-python, only llama-server itself is compiled: it uses the libraries of ggml
that the package installed, so that both servers compute with the same code, and no GPU code is compiled again.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from turbopilot.base.backends import (
    BACKENDS,
    CPU,
    PACKAGE,
    Backend,
    installed_version,
    is_built,
    library_folder,
)

_OFF = (
    "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI",
    "LLAMA_USE_PREBUILT_UI",
)  # fmt: skip

PACKAGED: Final = "package"
"""Stands for the source of the installed llama-cpp-python."""


def installed_backend() -> Backend:
    """Return the backend of the installed llama.cpp; the best if it has several."""
    libraries = library_folder()
    return next((b for b in BACKENDS if libraries and is_built(b.name, libraries)), CPU)


def build_llama_server(source: str, build: Path) -> Path:
    """Compile the server from a folder, or from the `PACKAGED` source, and return its path.

    Raises:
        SystemExit: the source is missing, or the compilation failed.
    """
    backend = installed_backend()
    options = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{name}=OFF" for name in _OFF)]
    folder = Path(source)
    if source == PACKAGED:
        folder = _packaged_source(build.with_name("source"))
        options += _installed_ggml()
    else:
        options += backend.cmake
    if not (folder / "CMakeLists.txt").is_file():
        raise SystemExit(f"--llama-cpp {source}: no CMakeLists.txt there; give llama.cpp's source")
    configure = shlex.join(["cmake", "-S", str(folder), "-B", str(build), *options])
    jobs = str(os.cpu_count() or 1)
    compile_it = shlex.join(
        ["cmake", "--build", str(build), "-j", jobs, "--target", "llama-server"]
    )
    print(f"compiling llama-server for {backend.name}", file=sys.stderr, flush=True)
    # A shell, because the setup of a backend calls its tools: HIPCXX="$(hipconfig -l)/clang".
    setup = f"export {backend.setup}; " if backend.setup else ""
    _run(
        ["/bin/sh", "-c", f"{setup}{configure} && {compile_it}"],
        "llama-server could not be compiled",
    )
    return build / "bin" / "llama-server"


def _packaged_source(folder: Path) -> Path:
    """Fetch the source of the installed llama-cpp-python with pip; return llama.cpp's folder in it."""
    what = f"{PACKAGE}=={installed_version()}"
    # Without --no-build-isolation, pip would first install what the package is built with.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        PACKAGE,
    ]
    _run([*pip, "--dest", str(folder), what], f"{what} could not be fetched")
    for archive in folder.glob("*.tar.gz"):
        _run(
            ["tar", "-xzf", str(archive), "-C", str(folder)],
            f"{archive.name} could not be unpacked",
        )
    return next(folder.glob("*/vendor/llama.cpp"), folder)


def _installed_ggml() -> list[str]:
    """Return CMake options with which llama.cpp uses the libraries of ggml that llama-cpp-python installed."""
    libraries = library_folder()
    assert libraries is not None
    packages = libraries.parents[1]
    return [
        "-DLLAMA_USE_SYSTEM_GGML=ON", f"-DCMAKE_PREFIX_PATH={packages}", f"-DCMAKE_BUILD_RPATH={packages / 'lib'}",
    ]  # fmt: skip


def _run(command: Sequence[str], failure: str) -> None:
    # CMake may be in the environment of this interpreter, which need not be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{failure}:\n{done.stdout[-3000:]}")
