"""The warning about a GPU that this build of llama.cpp cannot use."""

from __future__ import annotations

import pytest

from turbopilot.base.graphics import AMD, APPLE, INTEL, NVIDIA, GraphicsCard, Host
from turbopilot.llama.unused_gpus import unused_gpu_warning

H200 = GraphicsCard(NVIDIA, "NVIDIA H200", "nvidia 580.1")


def host(*tools: str) -> Host:
    """Return a machine with these programs."""
    return Host(which=lambda name: f"/usr/bin/{name}" if name in tools else None)


@pytest.mark.parametrize(
    ("card", "tools", "parts"),
    [
        (H200, ["nvcc"], ["NVIDIA H200 is not used", "-DGGML_CUDA=ON", "pip install", "--no-cache-dir"]),
        (H200, [], ["compiled without it", "for cuda, install", "nvcc"]),
        (GraphicsCard(NVIDIA, "GPU 2330", "nouveau"), ["nvcc"], ["NVIDIA GPU 2330 cannot be used", "doctor"]),
        (GraphicsCard(NVIDIA, "GPU 2330"), ["nvcc"], ["cannot be used", "turbopilot doctor"]),
        (GraphicsCard(NVIDIA, "H200", "nvidia", is_visible=False), ["nvcc"], ["cannot be used"]),
        (GraphicsCard(AMD, "MI300", "amdgpu"), ["glslc"], ["AMD MI300", "-DGGML_VULKAN=ON"]),
        (GraphicsCard(AMD, "MI300", "amdgpu"), ["glslc", "hipconfig"], ["-DGGML_HIP=ON"]),
        (GraphicsCard(APPLE, "Apple M1", "macOS"), [], ["-DGGML_METAL=ON"]),
    ],
)  # fmt: skip
def test_warning_about_an_unused_gpu_has_a_remedy(
    card: GraphicsCard, tools: list[str], parts: list[str]
) -> None:
    warning = unused_gpu_warning([card], {"cpu"}, host(*tools))
    assert all(part in warning for part in parts), warning
    assert "\n" not in warning


@pytest.mark.parametrize(
    ("card", "built"),
    [
        (H200, {"cpu", "cuda"}),
        (H200, {"cpu", "vulkan"}),
        (GraphicsCard(AMD, "MI300", "amdgpu"), {"cpu", "hip"}),
        (GraphicsCard(INTEL, "GPU a780", "i915", is_integrated=True), {"cpu"}),
    ],
)
def test_usable_and_integrated_gpus_are_not_warned_about(
    card: GraphicsCard, built: set[str]
) -> None:
    assert unused_gpu_warning([card], built, host("nvcc")) == ""
