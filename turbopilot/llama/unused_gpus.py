"""Warning about GPUs that are present, but that this build of llama.cpp cannot use."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from turbopilot.base.machine import PresentGpu, Vendor

# Backends that can use a vendor's GPUs, the best first. Names of ggml_backend_reg_name in llama.cpp.
_BACKENDS: Final[dict[Vendor, tuple[str, ...]]] = {
    "NVIDIA": ("CUDA", "Vulkan"),
    "AMD": ("ROCm", "Vulkan"),
    "Intel": ("SYCL", "Vulkan"),
    "Apple": ("MTL", "Metal"),
}
_FLAGS: Final[dict[Vendor, str]] = {
    "NVIDIA": "-DGGML_CUDA=ON", "AMD": "-DGGML_VULKAN=ON", "Intel": "-DGGML_VULKAN=ON", "Apple": "-DGGML_METAL=ON",
}  # fmt: skip
_DRIVERS: Final[dict[Vendor, str]] = {
    "NVIDIA": "the driver nvidia", "AMD": "the driver amdgpu", "Intel": "the driver i915 or xe", "Apple": "macOS",
}  # fmt: skip


def reinstall_command(flags: str) -> str:
    """Return the command that compiles llama.cpp again with CMake options."""
    return f'CMAKE_ARGS="{flags}" pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python'


def unused_gpu_warning(present: Sequence[PresentGpu], backends: Collection[str]) -> str:
    """Return one warning about a GPU that is present and not used, with a remedy; "" if there is none.

    Args:
        present: the GPUs of this machine.
        backends: names of the backends in this build, such as "CUDA".
    """
    for gpu in present:
        if gpu.is_integrated:
            continue
        named = f"{gpu.vendor} GPU" + (f" at {gpu.place}" if gpu.place else "")
        if any(b in backends for b in _BACKENDS[gpu.vendor]):
            continue  # the build is right: the log of llama.cpp says why it finds no device
        if not gpu.has_nodes or gpu.driver == "nouveau":
            found = f"its driver is {gpu.driver}" if gpu.driver else "it has no driver"
            return (
                f"{named}: cannot be used, as {found}: install {_DRIVERS[gpu.vendor]}, or give the container access to "
                "the GPU, for example docker run --gpus all"
            )
        return f"{named}: this llama.cpp cannot use it: {reinstall_command(_FLAGS[gpu.vendor])}"
    return ""
