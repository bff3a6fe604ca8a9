"""Graphics processors of this machine and their drivers, found without llama.cpp; uses only the standard library.

Sources: nvidia-smi(1); Linux's Documentation/ABI/testing/sysfs-bus-pci, and Documentation/gpu/amdgpu/driver-misc.rst
for `mem_info_vram_*`. The scripts use this module before anything is installed.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

NVIDIA, AMD, INTEL, APPLE = "NVIDIA", "AMD", "Intel", "Apple"
_VENDORS: Final = {"0x10de": NVIDIA, "0x1002": AMD, "0x8086": INTEL}  # of PCI
# First byte of a PCI class: display controllers, and 3D controllers without a display.
_DISPLAY: Final = "0x03"
_SECONDS: Final = 10.0  # for a program that asks a driver: a hung driver would never answer
_NVIDIA_FIELDS: Final = "name,driver_version,memory.total,memory.free"


def run_program(command: Sequence[str]) -> str:
    """Return the output of a program; "" if it is missing, fails, or takes more than 10 s."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


@dataclass(frozen=True, slots=True)
class Host:
    """The parts of a machine that GPUs and compilers are found by.

    Attributes:
        root: root of the file system.
        system: as `platform.system()` returns it.
        machine: as `platform.machine()` returns it.
        run: returns the output of a program, "" if it fails.
        which: returns the path of a program, None if it is missing.
    """

    root: Path = Path("/")
    system: str = platform.system()
    machine: str = platform.machine()
    run: Callable[[Sequence[str]], str] = run_program
    which: Callable[[str], str | None] = shutil.which

    def read(self, path: str) -> str:
        """Return a file's text without blanks at its ends; "" if it cannot be read."""
        try:
            return (self.root / path).read_text("utf-8", errors="replace").strip()
        except OSError:
            return ""


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A GPU. Unknown texts are "", unknown sizes None.

    Attributes:
        vendor: NVIDIA, AMD, INTEL or APPLE.
        driver: the driver with its version; "" if none is loaded.
        library: what programs reach it by, with its version: CUDA, ROCm.
        memory: bytes of its own memory.
        free: bytes of that memory that no process has taken.
        is_visible: whether this process sees the device files; a container may see only the host's PCI bus.
        is_integrated: whether it is a part of an Intel processor, which computes about as fast as the processor.
    """

    vendor: str
    name: str
    driver: str = ""
    library: str = ""
    memory: int | None = None
    free: int | None = None
    is_visible: bool = True
    is_integrated: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether programs can compute on it; nouveau, the free driver of NVIDIA's GPUs, cannot."""
        return self.is_visible and bool(self.driver) and not self.driver.startswith("nouveau")


def graphics_cards(host: Host = Host()) -> tuple[GraphicsCard, ...]:
    """Return the GPUs of NVIDIA, AMD, Intel and Apple; others, such as those of virtual machines, are left out."""
    if host.system == "Darwin":
        return (_apple(host),) if host.machine == "arm64" else ()
    nvidia = tuple(_nvidia(host))
    others = (card for card in _pci(host) if not (nvidia and card.vendor == NVIDIA))
    return (*nvidia, *others)


def _nvidia(host: Host) -> Iterator[GraphicsCard]:
    """Yield what nvidia-smi reports, or, without it, what the kernel's driver does."""
    # Under WSL, the folder of Windows' driver is not always searched.
    program = host.which("nvidia-smi") or "/usr/lib/wsl/lib/nvidia-smi"
    said = host.run([program, f"--query-gpu={_NVIDIA_FIELDS}", "--format=csv,noheader,nounits"])
    cuda = re.search(r"CUDA(?: UMD)? Version\s*:\s*([\d.]+)", host.run([program])) if said else None
    library = f"CUDA {cuda[1]}" if cuda else ""
    found = False
    for line in said.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            name, driver, total, free = fields
            found = True
            yield GraphicsCard(
                NVIDIA, name, f"nvidia {driver}", library, _mebibytes(total), _mebibytes(free)
            )
    if found:
        return
    version = re.search(r"\s(\d+\.[\d.]+)\s", host.read("proc/driver/nvidia/version"))
    for folder in sorted((host.root / "proc/driver/nvidia/gpus").glob("*")):
        model = re.search(r"^Model:\s*(.+)$", host.read(f"{folder}/information"), re.MULTILINE)
        driver = f"nvidia {version[1]}" if version else "nvidia"
        yield GraphicsCard(
            NVIDIA, model[1] if model else "GPU", driver, is_visible=_is_visible(host, NVIDIA)
        )


def _pci(host: Host) -> Iterator[GraphicsCard]:
    """Yield the display controllers on the PCI bus."""
    for folder in sorted((host.root / "sys/bus/pci/devices").glob("*")):
        vendor = _VENDORS.get(host.read(f"{folder}/vendor"))
        if vendor is None or not host.read(f"{folder}/class").startswith(_DISPLAY):
            continue
        linked = folder / "driver"
        driver = linked.resolve().name if linked.exists() else ""
        version = host.read(f"sys/module/{driver}/version") if driver else ""
        name = host.read(f"{folder}/product_name") or f"GPU {host.read(f'{folder}/device')[2:]}"
        # Source: an Intel processor's own GPU is the function 00:02.0 of the PCI bus.
        card = GraphicsCard(
            vendor, name, f"{driver} {version}".strip(), is_visible=_is_visible(host, vendor),
            is_integrated=vendor == INTEL and folder.name.endswith(":00:02.0"),
        )  # fmt: skip
        yield _with_memory(host, folder, card) if vendor == AMD else card


def _is_visible(host: Host, vendor: str) -> bool:
    """Return whether device files of a vendor's GPUs exist: the driver's, WSL's, or a render node."""
    patterns = {NVIDIA: ("nvidia[0-9]*", "dxg"), AMD: ("kfd", "dri/renderD*")}
    names = patterns.get(vendor, ("dri/renderD*",))
    return any(True for name in names for _ in (host.root / "dev").glob(name))


def _with_memory(host: Host, folder: Path, card: GraphicsCard) -> GraphicsCard:
    """Add what amdgpu reports about memory, and ROCm's version."""
    total = host.read(f"{folder}/mem_info_vram_total")
    used = host.read(f"{folder}/mem_info_vram_used")
    rocm = host.read("opt/rocm/.info/version")
    # Only the kernel's compute interface makes a GPU usable with ROCm.
    usable = (host.root / "dev/kfd").exists()
    return replace(
        card,
        library=f"ROCm {rocm}" if rocm and usable else "",
        memory=int(total) if total.isdecimal() else None,
        free=int(total) - int(used) if total.isdecimal() and used.isdecimal() else None,
    )


def _apple(host: Host) -> GraphicsCard:
    """Return the GPU of an Apple chip, which shares the main memory."""
    name = host.run(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or "GPU"
    version = host.run(["sw_vers", "-productVersion"]).strip()
    return GraphicsCard(APPLE, name, f"macOS {version}".strip(), "Metal")


def _mebibytes(text: str) -> int | None:
    """Return bytes; None for "[N/A]", which nvidia-smi prints for GPUs that share the main memory."""
    return int(text) << 20 if text.isdecimal() else None
