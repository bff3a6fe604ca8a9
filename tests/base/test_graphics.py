"""GPUs of a machine, read from a copy of the files and outputs that drivers provide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from turbopilot.base.graphics import AMD, APPLE, INTEL, NVIDIA, GraphicsCard, Host, graphics_cards

# Recorded from nvidia-smi 550.
SMI = "NVIDIA GeForce RTX 4090, 550.54.14, 24564, 23028\n"
SMI_HEAD = "| NVIDIA-SMI 550.54.14   Driver Version: 550.54.14   CUDA Version: 12.4 |\n"
PROC_VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024"
)


def host(
    root: Path, outputs: Mapping[str, str] | None = None, system: str = "Linux", machine: str = "x86_64"
) -> Host:  # fmt: skip
    """Return a machine whose programs print `outputs`, by their first words."""
    known = outputs or {}

    def run(command: Sequence[str]) -> str:
        return next((v for k, v in known.items() if " ".join(command).endswith(k)), "")

    programs = {name.split()[0] for name in known}
    which: Callable[[str], str | None] = lambda name: name if name in programs else None  # noqa: E731
    return Host(root, system, machine, run, which)


def pci(root: Path, address: str, vendor: str, driver: str = "", **files: str) -> None:
    """Add a device of the PCI bus."""
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    texts = {"vendor": vendor, "class": "0x030000", "device": "0x744c", **files}
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n")
    if driver:
        module = root / "sys/module" / driver
        module.mkdir(parents=True)
        (module / "version").write_text("6.8.5\n")
        (folder / "driver").symlink_to(module)


def nodes(root: Path, *names: str) -> None:
    """Add device files."""
    for name in names:
        (root / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / name).touch()


def test_machine_without_a_gpu_has_no_cards(tmp_path: Path) -> None:
    pci(tmp_path, "0000:00:02.0", "0x1234")  # the display of a virtual machine
    pci(tmp_path, "0000:00:03.0", "0x8086", **{"class": "0x020000"})  # Intel's network controller
    assert graphics_cards(host(tmp_path)) == ()


def test_nvidia_smi_reports_name_driver_and_memory(tmp_path: Path) -> None:
    pci(tmp_path, "0000:01:00.0", "0x10de", "nvidia")
    outputs = {"nvidia-smi": SMI_HEAD, "noheader,nounits": SMI}
    (card,) = graphics_cards(host(tmp_path, outputs))
    assert card == GraphicsCard(
        NVIDIA, "NVIDIA GeForce RTX 4090", "nvidia 550.54.14", "CUDA 12.4", 24564 << 20, 23028 << 20
    )


def test_gpu_with_shared_memory_has_no_size(tmp_path: Path) -> None:
    outputs = {"nvidia-smi": SMI_HEAD, "noheader,nounits": "NVIDIA GB10, 580.95, [N/A], [N/A]\n"}
    (card,) = graphics_cards(host(tmp_path, outputs))
    assert (card.name, card.memory, card.free) == ("NVIDIA GB10", None, None)


def test_nvidia_driver_is_found_without_nvidia_smi(tmp_path: Path) -> None:
    gpu = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    gpu.mkdir(parents=True)
    (gpu / "information").write_text("Model: \t\t Tesla T4\nIRQ:   \t\t 35\n")
    (tmp_path / "proc/driver/nvidia/version").write_text(PROC_VERSION)
    (card,) = graphics_cards(host(tmp_path))
    assert (card.name, card.driver) == ("Tesla T4", "nvidia 535.183.01")
    assert not card.is_usable, "a container without --gpus sees the kernel's files, but no device"
    nodes(tmp_path, "nvidia0")
    (card,) = graphics_cards(host(tmp_path))
    assert card.is_usable


def test_gpu_without_a_driver_is_listed(tmp_path: Path) -> None:
    pci(tmp_path, "0000:01:00.0", "0x10de")
    nodes(tmp_path, "nvidia0")
    (card,) = graphics_cards(host(tmp_path))
    assert (card.vendor, card.driver, card.is_usable) == (NVIDIA, "", False)


@pytest.mark.parametrize(
    ("vendor", "driver", "node", "usable"),
    [
        ("0x10de", "nvidia", "nvidia0", True), ("0x10de", "nvidia", "dxg", True),
        ("0x10de", "nvidia", "nvidiactl", False), ("0x10de", "nouveau", "nvidia0", False),
        ("0x1002", "amdgpu", "kfd", True), ("0x1002", "amdgpu", "dri/card0", False),
        ("0x8086", "xe", "dri/renderD128", True), ("0x8086", "xe", "kfd", False),
    ],
)  # fmt: skip
def test_gpu_needs_a_driver_and_its_device_files(
    tmp_path: Path, vendor: str, driver: str, node: str, usable: bool
) -> None:
    pci(tmp_path, "0000:01:00.0", vendor, driver)
    (hidden,) = graphics_cards(host(tmp_path))
    assert not hidden.is_usable
    nodes(tmp_path, node)
    (card,) = graphics_cards(host(tmp_path))
    assert card.is_usable == usable


@pytest.mark.parametrize(
    ("address", "integrated"), [("0000:00:02.0", True), ("0000:03:00.0", False)]
)
def test_gpu_of_an_intel_processor_is_integrated(
    tmp_path: Path, address: str, integrated: bool
) -> None:
    pci(tmp_path, address, "0x8086", "i915")
    (card,) = graphics_cards(host(tmp_path))
    assert card.is_integrated == integrated


def test_amd_gpu_has_memory_and_rocm_version(tmp_path: Path) -> None:
    sizes = {"mem_info_vram_total": "25753026560", "mem_info_vram_used": "1000000000"}
    pci(tmp_path, "0000:03:00.0", "0x1002", "amdgpu", **sizes)
    rocm = tmp_path / "opt/rocm/.info/version"
    rocm.parent.mkdir(parents=True)
    rocm.write_text("6.2.0-66\n")
    (without_kfd,) = graphics_cards(host(tmp_path))
    assert without_kfd.library == ""
    nodes(tmp_path, "kfd")
    (card,) = graphics_cards(host(tmp_path))
    assert card == GraphicsCard(
        AMD, "GPU 744c", "amdgpu 6.8.5", "ROCm 6.2.0-66", 25753026560, 24753026560
    )


def test_intel_gpu_has_its_driver(tmp_path: Path) -> None:
    pci(tmp_path, "0000:03:00.0", "0x8086", "i915")
    nodes(tmp_path, "dri/renderD128")
    assert graphics_cards(host(tmp_path)) == (GraphicsCard(INTEL, "GPU 744c", "i915 6.8.5"),)


@pytest.mark.parametrize(("machine", "n"), [("arm64", 1), ("x86_64", 0)])
def test_apple_chip_has_a_gpu(tmp_path: Path, machine: str, n: int) -> None:
    outputs = {"machdep.cpu.brand_string": "Apple M3 Pro\n", "-productVersion": "15.1\n"}
    cards = graphics_cards(host(tmp_path, outputs, "Darwin", machine))
    assert cards == (GraphicsCard(APPLE, "Apple M3 Pro", "macOS 15.1", "Metal"),) * n
