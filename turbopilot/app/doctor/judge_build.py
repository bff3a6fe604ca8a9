"""Judgement of the processor, the GPUs, and whether the installed llama.cpp can use them. Pure."""

from __future__ import annotations

from typing import Final

from turbopilot.app.doctor.check_result import CheckResult
from turbopilot.app.doctor.facts import BuildFacts, Failed, GraphicsFacts, Machine
from turbopilot.base.backends import CPU
from turbopilot.base.graphics import AMD, INTEL, NVIDIA, GraphicsCard
from turbopilot.base.sizes import size

REINSTALL: Final = "compile llama.cpp again on this machine: turbopilot doctor --fix"
_PORTABLE: Final = "portable"
_GET_DRIVER: Final = {
    NVIDIA: "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install); in a container, run it with --gpus all",
    AMD: "load the kernel module amdgpu; in a container, pass /dev/kfd and /dev/dri",
    INTEL: "load the kernel module i915 or xe; in a container, pass /dev/dri",
}


def judge_features(machine: Machine) -> CheckResult:
    """Compare the features that llama.cpp was compiled for with those of the processor."""
    name, processor, build = "processor", machine.processor, machine.build
    if isinstance(processor, Failed):
        return CheckResult(name, "problem", f"this check failed: {processor.why}")
    if isinstance(build, Failed):
        return CheckResult(name, "skipped", f"{processor.name}; llama.cpp cannot be loaded")
    used = ", ".join(sorted(build.features)) or "no special instructions"
    found = f"{processor.name}; llama.cpp uses {used}"
    if not processor.has:
        what = "the operating system does not report what the processor can do"
        return CheckResult(name, "skipped", f"{found}; {what}")
    if lacking := sorted(build.features & processor.lacks):
        found += f"; the processor lacks {', '.join(lacking)}: it can crash (illegal instruction)"
        return CheckResult(name, "problem", found, REINSTALL, reinstall=True)
    unused = sorted(processor.has - build.features)
    # A portable build has chosen the best of its libraries.
    if unused and _PORTABLE not in build.built:
        found += f", but not {', '.join(unused)}"
        return CheckResult(name, "warning", found, REINSTALL, reinstall=True)
    return CheckResult(name, "ok", found)


def judge_graphics(machine: Machine) -> CheckResult:
    """Report the GPUs and their drivers."""
    name, graphics = "gpu", machine.graphics
    if isinstance(graphics, Failed):
        return CheckResult(name, "problem", f"this check failed: {graphics.why}")
    if not graphics.cards:
        return CheckResult(name, "ok", "none")
    found = "; ".join(_described(card) for card in graphics.cards)
    fast = [card for card in graphics.cards if not card.is_integrated]
    if missing := next((card for card in fast if not card.is_usable), None):
        remedy = _GET_DRIVER.get(missing.vendor, "install its driver")
        return CheckResult(name, "warning", found, remedy)
    if (older := _older_driver(graphics)) is not None:
        remedy = f"update the driver, or install the CUDA toolkit {older}"
        found += f"; nvcc {graphics.nvcc} compiles for a newer driver"
        return CheckResult(name, "warning", found, remedy)
    return CheckResult(name, "ok", found)


def _older_driver(graphics: GraphicsFacts) -> str | None:
    """Return the CUDA version of a driver that is older than the compiler's major version; None if there is none."""
    if not graphics.nvcc:
        return None
    for card in graphics.cards:
        kind, _, version = card.library.partition(" ")
        if kind == "CUDA" and int(version.split(".")[0]) < int(graphics.nvcc.split(".")[0]):
            return version
    return None


def _described(card: GraphicsCard) -> str:
    brand = "" if card.name.startswith(card.vendor) else f"{card.vendor} "
    hidden = "" if card.is_visible else "no device files here"
    parts = [card.driver or "no driver", hidden, card.library]
    if card.memory is not None:
        free = "" if card.free is None else f", {size(card.free)} free"
        parts.append(f"{size(card.memory)}{free}")
    return f"{brand}{card.name} ({', '.join(filter(None, parts))})"


def judge_build(machine: Machine) -> CheckResult:
    """Report the installed llama.cpp, and whether it can use the GPUs."""
    name, build, graphics = "llama.cpp", machine.build, machine.graphics
    if isinstance(build, Failed):
        found = f"cannot be loaded: {build.why}"
        return CheckResult(name, "problem", found, REINSTALL, reinstall=True)
    devices = ", ".join(build.devices) or "no GPU"
    kind = ", portable" if _PORTABLE in build.built else ""
    found = (
        f"llama-cpp-python {build.version}{kind}; backends {', '.join(build.backends)}; {devices}"
    )
    if not build.backends:
        found = f"llama-cpp-python {build.version} finds no backend"
        return CheckResult(name, "problem", found, REINSTALL, reinstall=True)
    if build.devices or isinstance(graphics, Failed):
        return CheckResult(name, "ok", found)
    if not any(card.is_usable and not card.is_integrated for card in graphics.cards):
        return CheckResult(name, "ok", found)
    return _unused_gpu(found, build, graphics)


def _unused_gpu(found: str, build: BuildFacts, graphics: GraphicsFacts) -> CheckResult:
    """Return why llama.cpp does not use a GPU that has a driver."""
    name, choice = "llama.cpp", graphics.choice
    if choice.backend is CPU:
        return CheckResult(name, "warning", f"{found}; the GPU is not used", choice.missing)
    if choice.backend.name in build.built:
        remedy = (
            "check that CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES do not hide the GPU, and that you may open its "
            "files in /dev (groups video and render)"
        )
        return CheckResult(
            name,
            "warning",
            f"{found}; compiled for {choice.backend.name}, but it finds no GPU",
            remedy,
        )
    remedy = f"compile llama.cpp for {choice.backend.name}: turbopilot doctor --fix"
    return CheckResult(name, "warning", f"{found}; the GPU is not used", remedy, reinstall=True)
