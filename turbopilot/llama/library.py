"""Import of llama_cpp, and setup of its log and backends."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, TypeAlias

from turbopilot.base.errors import InvalidInput
from turbopilot.llama.log import LlamaLog

# On an abort, llama.cpp would start gdb.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# Rounds for which a thread of GNU OpenMP spins at a barrier before it sleeps. By default they are billions: beside busy
# programs, threads then take the processor from the thread that they wait for. Measured with two busy programs on two
# cores: a completion of 15 tokens took 0.95 s (at worst 11 s) by default, 0.43 s with this value, and 0.21 s without
# those programs. Fewer rounds are not faster beside them, and slower without them.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
try:
    import llama_cpp
    from llama_cpp import _ggml
except (ImportError, RuntimeError, OSError) as e:
    raise InvalidInput(
        f"llama.cpp cannot be loaded: {e}",
        hint="reinstall it: pip install --force-reinstall llama-cpp-python",
    ) from e

__all__ = [
    "VERSION", "Signature", "build", "declare", "ggml", "llama_cpp", "log", "set_numa", "start_backend",
]  # fmt: skip
# enum ggml_numa_strategy in ggml-cpu.h
_NUMA: Final = {"off": 0, "distribute": 1, "isolate": 2, "numactl": 3}

VERSION: Final = str(llama_cpp.__version__)
Signature: TypeAlias = "tuple[list[Any], Any]"
"""Types of the arguments and of the result of a C function."""


class _Ggml:
    """Functions of the ggml that libllama itself uses.

    A wheel holds no links: libggml.so, and libggml.so.0 of which libllama depends, are two files. Opening the first one
    would load a second ggml with its own list of backends. So functions are looked up in libllama, whose dependencies
    are searched too. Windows does not search them, but loads a library of the same name only once.
    """

    @cached_property
    def _base(self) -> Any:
        return _ggml.ctypes_ext.load_shared_library("ggml-base", _ggml.libggml_base_path)

    def __getattr__(self, name: str) -> Any:
        if os.name != "nt":
            return getattr(llama_cpp.llama_cpp._lib, name)
        return getattr(_ggml.libggml if hasattr(_ggml.libggml, name) else self._base, name)


ggml: Final = _Ggml()
log: Final = LlamaLog()
"""llama.cpp's log; a process has only one."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Write to `log`. The function is global, because llama.cpp keeps a pointer to it."""
    log.write(level, text.decode("utf-8", "replace"))


def start_backend() -> None:
    """Route llama.cpp's log to `log`, and load and initialize the backends.

    The backends of a build with GGML_BACKEND_DL are files beside the library. By default, llama.cpp searches them only
    beside Python's binary, and in the current folder, which may hold a stranger's libraries.
    """
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
    if not ggml.ggml_backend_reg_count():
        ggml.ggml_backend_load_all_from_path(os.fsencode(_ggml.libggml_base_path))
    llama_cpp.llama_backend_init()


def build() -> str:
    """Return the version of llama.cpp, the backends and processor features that it was compiled for, and ours."""
    start_backend()
    return f"{VERSION} {llama_cpp.llama_print_system_info().decode('utf-8', 'replace').strip()}"


def set_numa(strategy: str) -> None:
    """Set how threads use several memory nodes: off, distribute, isolate or numactl. Only the first call counts."""
    if strategy != "off":
        start_backend()
        llama_cpp.llama_numa_init(_NUMA[strategy])


def declare(library: Any, functions: Mapping[str, Signature]) -> None:
    """Set the argument and result types of functions in a ctypes library."""
    for name, (arguments, result) in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
