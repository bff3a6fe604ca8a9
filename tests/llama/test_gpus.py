"""GPUs of a machine, and the warning about one that this build of llama.cpp cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbopilot.base.machine import PresentGpu, present_gpus
from turbopilot.llama.unused_gpus import unused_gpu_warning


def pci(root: Path, address: str, vendor: str, kind: str = "0x030000", driver: str = "") -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if driver:
        (root / "drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(root / "drivers" / driver)


def node(root: Path, name: str) -> None:
    (root / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "dev" / name).touch()


def test_display_controllers_of_known_vendors_are_gpus(tmp_path: Path) -> None:
    pci(tmp_path, "0000:00:02.0", "0x8086", driver="i915")
    pci(tmp_path, "0000:01:00.0", "0x10de", "0x030200", driver="nvidia")
    pci(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its sound card
    pci(tmp_path, "0000:03:00.0", "0x1002")
    pci(tmp_path, "0000:04:00.0", "0x1234")  # the display of a virtual machine
    node(tmp_path, "nvidia0")
    assert present_gpus(tmp_path, "Linux") == [
        PresentGpu("Intel", "0000:00:02.0", "i915", has_nodes=False, is_integrated=True),
        PresentGpu("NVIDIA", "0000:01:00.0", "nvidia", has_nodes=True),
        PresentGpu("AMD", "0000:03:00.0", "", has_nodes=False),
    ]


def test_gpu_of_wsl_and_of_a_container_without_pci_is_found(tmp_path: Path) -> None:
    node(tmp_path, "dxg")
    assert present_gpus(tmp_path, "Linux") == [PresentGpu("NVIDIA")]


def test_apple_processors_have_a_gpu(tmp_path: Path) -> None:
    assert present_gpus(tmp_path, "Darwin", "arm64") == [PresentGpu("Apple")]
    assert present_gpus(tmp_path, "Darwin", "x86_64") == []
    assert present_gpus(tmp_path, "Linux") == []


@pytest.mark.parametrize(
    ("gpu", "backends", "parts"),
    [
        (PresentGpu("NVIDIA", "01:00.0", "nvidia"), ["CPU", "RPC"], ["-DGGML_CUDA=ON", "pip install", "01:00.0"]),
        (PresentGpu("NVIDIA", "01:00.0", "nouveau"), ["CPU"], ["its driver is nouveau", "the driver nvidia"]),
        (PresentGpu("NVIDIA", "01:00.0", "", has_nodes=False), ["CPU"], ["no driver", "docker run --gpus"]),
        (PresentGpu("AMD", driver="amdgpu"), ["CPU"], ["AMD GPU", "-DGGML_VULKAN=ON"]),
        (PresentGpu("Apple"), ["CPU"], ["-DGGML_METAL=ON"]),
    ],
)  # fmt: skip
def test_warning_about_an_unused_gpu_has_a_remedy(
    gpu: PresentGpu, backends: list[str], parts: list[str]
) -> None:
    warning = unused_gpu_warning([gpu], backends)
    assert all(part in warning for part in parts), warning
    assert "\n" not in warning


@pytest.mark.parametrize(
    ("gpu", "backends"),
    [
        (PresentGpu("NVIDIA", driver="nvidia"), ["CUDA", "CPU"]),
        (PresentGpu("NVIDIA", driver="nvidia"), ["Vulkan", "CPU"]),
        (PresentGpu("AMD", driver="amdgpu"), ["ROCm", "CPU"]),
        (PresentGpu("Apple"), ["MTL", "CPU"]),
        (PresentGpu("Intel", driver="i915", is_integrated=True), ["CPU"]),
    ],
)
def test_usable_and_integrated_gpus_are_not_warned_about(
    gpu: PresentGpu, backends: list[str]
) -> None:
    assert unused_gpu_warning([gpu], backends) == ""
