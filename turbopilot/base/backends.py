"""Backends that llama.cpp can be compiled for: what each needs, and which one suits a machine.

This is the only list of them: `scripts/lib/venv.sh` reads it through `scripts/lib/backend.py`, before anything is
installed, so this module uses only the standard library. `turbopilot doctor` reads it too, and a test compares
docs/install.md with it.

Source of options and tools: docs/build.md and docs/backend/SYCL.md of llama.cpp, and `ggml_backend_load_all_from_path`
in ggml/src/ggml-backend-reg.cpp for the names of the libraries.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from turbopilot.base.graphics import AMD, APPLE, INTEL, NVIDIA, GraphicsCard, Host

PACKAGE: Final = "llama-cpp-python"
# Compiled with every backend: RPC, for devices of other processes and machines, takes seconds and 190 kB.
_ALWAYS: Final = ("-DGGML_RPC=ON",)
_PORTABLE: Final = (
    "-DGGML_NATIVE=OFF", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU_ALL_VARIANTS=ON",
    # llama-cpp-python does not know the libraries of each processor, and CMake would put them into bin/.
    "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend of llama.cpp.

    Attributes:
        name: value of TURBOPILOT_BACKEND; the library is libggml-NAME.
        hardware: what it is for, in a few words.
        flags: CMake options that it needs.
        vendors: vendors of the GPUs that it runs on.
        tools: programs without which it cannot be compiled.
        get_tools: how to install them.
        setup: shell words in front of the build command.
    """

    name: str
    hardware: str
    flags: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    get_tools: str = ""
    setup: str = ""

    @property
    def cmake(self) -> tuple[str, ...]:
        """CMake options that compile llama.cpp for it."""
        return (*self.flags, *_ALWAYS)


# In the order of preference: the vendor's own libraries first.
BACKENDS: Final = (
    Backend("metal", "Apple silicon", ("-DGGML_METAL=ON",), (APPLE,)),
    Backend(
        "cuda", "NVIDIA GPUs", ("-DGGML_CUDA=ON",), (NVIDIA,), ("nvcc",),
        "the CUDA toolkit (https://developer.nvidia.com/cuda-downloads; Debian, Ubuntu: sudo apt install "
        "nvidia-cuda-toolkit) and put nvcc on PATH",
    ),
    Backend(
        "hip", "AMD GPUs with ROCm", ("-DGGML_HIP=ON",), (AMD,), ("hipconfig",),
        "ROCm 6.1 or newer (https://rocm.docs.amd.com) and put hipconfig on PATH",
        'HIPCXX="$(hipconfig -l)/clang" HIP_PATH="$(hipconfig -R)"',
    ),
    Backend(
        "sycl", "Intel GPUs with oneAPI",
        ("-DGGML_SYCL=ON", "-DCMAKE_C_COMPILER=icx", "-DCMAKE_CXX_COMPILER=icpx"), (INTEL,), ("icpx",),
        "Intel oneAPI and run: source /opt/intel/oneapi/setvars.sh",
    ),
    Backend(
        "vulkan", "any GPU with a Vulkan driver", ("-DGGML_VULKAN=ON",), (NVIDIA, AMD, INTEL), ("glslc",),
        # Older headers lack VK_EXT_layer_settings.
        "glslc and Vulkan's headers, 1.3.272 or newer (Ubuntu 24.04, Debian 13: sudo apt install glslc libvulkan-dev "
        "spirv-headers)",
    ),
    Backend("cpu", "the processor of this machine"),
    Backend("portable", "any processor of this architecture; to copy to other machines", _PORTABLE),
    Backend(
        "portable-cuda", "NVIDIA GPUs and any processor of this architecture; to copy to other machines",
        ("-DGGML_CUDA=ON", *_PORTABLE),
    ),
)  # fmt: skip
BY_NAME: Final[Mapping[str, Backend]] = {b.name: b for b in BACKENDS}
CPU: Final = BY_NAME["cpu"]


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """The backend to compile for.

    Attributes:
        why: what it was chosen for.
        missing: what to install for a better one; "" if nothing.
    """

    backend: Backend
    why: str
    missing: str = ""


def choose_backend(cards: Sequence[GraphicsCard], host: Host = Host()) -> BackendChoice:  # noqa: B008 — frozen
    """Return the first backend that runs on one of the GPUs and can be compiled with the tools of this machine.

    A GPU without a driver, or hidden from a container, does not count. Any other GPU with a render node can be used by
    Vulkan.
    """
    usable = [card for card in cards if card.is_usable]
    vendors = {card.vendor for card in usable}
    if any((host.root / "dev/dri").glob("renderD*")):
        vendors.add("")
    wanted: list[Backend] = []
    for backend in BACKENDS:
        suits = vendors & {*backend.vendors, *([""] if backend.name == "vulkan" else [])}
        if not suits:
            continue
        if all(host.which(tool) for tool in backend.tools):
            names = sorted({c.name for c in usable if c.vendor in backend.vendors})
            return BackendChoice(backend, ", ".join(names) or "a GPU", _missing(wanted))
        wanted.append(backend)
    why = "no GPU" if not cards and not vendors else "no GPU that can be used"
    return BackendChoice(CPU, why, _missing(wanted))


def _missing(wanted: Sequence[Backend]) -> str:
    """Return what to install to compile these backends, the best first; "" if there are none."""
    return "; or ".join(f"for {backend.name}, install {backend.get_tools}" for backend in wanted)


def library_folder() -> Path | None:
    """Return the folder of llama.cpp's libraries; None if llama-cpp-python is not installed. Loads nothing."""
    found = importlib.util.find_spec("llama_cpp")
    return Path(found.origin).parent / "lib" if found and found.origin else None


def built_backends() -> frozenset[str]:
    """Return the names of the backends in the installed llama.cpp."""
    folder = library_folder()
    return frozenset(b.name for b in BACKENDS if folder and is_built(b.name, folder))


def supports_gpus() -> bool:
    """Return whether the installed llama.cpp was compiled for a GPU. Loads nothing."""
    return any(BY_NAME[name].vendors for name in built_backends())


def is_built(name: str, libraries: Path) -> bool:
    """Return whether the libraries in a folder contain a backend, or "rpc"."""
    parts = {"portable": ("cpu-",), "portable-cuda": ("cpu-", "cuda")}.get(name, (name,))
    return all(any(libraries.glob(f"*ggml-{part}*")) for part in parts)


@dataclass(frozen=True, slots=True)
class Reinstallation:
    """Command that compiles and installs llama.cpp again.

    Attributes:
        python: the interpreter of the environment.
        version: version of llama-cpp-python; "" for the newest.
    """

    backend: Backend
    python: str = sys.executable
    version: str = field(default_factory=lambda: installed_version())

    @property
    def shell(self) -> str:
        """The command as a line for a POSIX shell.

        pip's cache identifies a compiled package by its source alone, so without these options pip could install one
        that was compiled for another backend. An index or a folder that the user named may have compiled ones too.
        """
        what = f"{PACKAGE}=={self.version}" if self.version else PACKAGE
        options = f"--no-cache-dir --force-reinstall --no-deps --no-binary {PACKAGE}"
        words = [self.backend.setup, f"CMAKE_ARGS={shlex.quote(' '.join(self.backend.cmake))}"]
        words += [f"{shlex.quote(self.python)} -m pip install {options} {what}"]
        return " ".join(filter(None, words))


def installed_version() -> str:
    """Return the version of the installed llama-cpp-python, even if it cannot be loaded; "" if there is none."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""
