"""Judgement of facts: what is well, what is not, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from turbopilot.app.doctor.check_result import CheckResult
from turbopilot.app.doctor.facts import (
    CoreFacts,
    DiskFacts,
    Failed,
    HubFacts,
    Machine,
    MemoryFacts,
    PortFacts,
    ServerFacts,
    SpeedFacts,
)
from turbopilot.app.doctor.judge_build import (
    REINSTALL,
    judge_build,
    judge_features,
    judge_graphics,
)
from turbopilot.base.backends import CPU, Reinstallation
from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.catalog import MODELS
from turbopilot.llama.footprint import MEMORY_SHARE, PROCESS

# The rest of the time was given to other programs, or to other virtual machines.
LEAST_TIME: Final = 0.8
# Share of numpy's arithmetic on one thread. Both are bound by the same units, of which a build without the processor's
# widest vectors uses half (AVX2 instead of AVX-512) or a quarter (AVX), and an eighth or less without FMA too.
LEAST_ARITHMETIC: Final = 0.2
# Apple's library computes products on a unit for matrices, which other programs cannot use.
_OWN_UNIT: Final = "accelerate"
# Bytes: the bundled model as F16, importance matrices, and PyTorch's results for it.
_LEAST_DISK: Final = 100_000_000
# Bytes of disk for each weight: the checkpoint, the F16 file, and a Q4_K_M or Q8_0 file.
_PER_WEIGHT: Final = 5
_Judge = Callable[[Machine], CheckResult]


def judge(machine: Machine) -> tuple[CheckResult, ...]:
    """Return the finding of every check."""
    return tuple(check(machine) for check in _CHECKS)


def reinstallation(machine: Machine, findings: tuple[CheckResult, ...]) -> Reinstallation | None:
    """Return the command that compiles llama.cpp for this machine, if that is the remedy of a fault; else None."""
    if not any(f.reinstall for f in findings):
        return None
    graphics = machine.graphics
    return Reinstallation(CPU if isinstance(graphics, Failed) else graphics.choice.backend)


def _of(name: str, field: str, judged: Callable[..., CheckResult]) -> _Judge:
    """Return a check of a single fact; a probe that failed is a problem."""

    def check(machine: Machine) -> CheckResult:
        fact = getattr(machine, field)
        if isinstance(fact, Failed):
            return CheckResult(name, "problem", f"this check failed: {fact.why}")
        return judged(fact)

    return check


def _judge_cores(cores: CoreFacts) -> CheckResult:
    found = f"{cores.allowed} of {cores.physical} physical cores may be used"
    if cores.quota is not None:
        found += f", for {cores.quota:g} cores' time (quota of the control group)"
    if cores.quota is not None and cores.quota < 1:
        remedy = (
            "give the container at least one core: each completion waits while the quota is used up"
        )
        return CheckResult("cores", "warning", found, remedy)
    return CheckResult("cores", "ok", found)


def _judge_memory(memory: MemoryFacts) -> CheckResult:
    limit = "" if memory.usable == memory.installed else f", limited to {size(memory.usable)}"
    found = f"{size(memory.installed)}{limit}; {size(memory.free)} free"
    budget = int(memory.usable * MEMORY_SHARE)
    fitting = [m for m in MODELS if m.footprint("Q4_K_M").total <= min(budget, memory.free)]
    if memory.free < PROCESS:
        remedy = f"close other programs: the server alone takes {size(PROCESS)}"
        return CheckResult("memory", "problem", found, remedy)
    if not fitting:
        remedy = "close other programs: only the bundled model fits"
        return CheckResult("memory", "warning", found, remedy)
    largest = max(fitting, key=lambda m: m.parameters)
    found += f"; fits models up to {largest.alias} (Q4_K_M) without a GPU"
    if memory.free < budget:
        remedy = (
            f"close other programs, or give serve --model-memory: by default models may take {size(budget)}, "
            "more than is free"
        )
        return CheckResult("memory", "warning", found, remedy)
    return CheckResult("memory", "ok", found)


def _judge_disk(disk: DiskFacts) -> CheckResult:
    found = (
        f"{size(disk.free)} free at {disk.folder} (holds {size(disk.files)}); the Hub's cache at {disk.hub_folder} "
        f"holds {size(disk.hub_files)}"
    )
    if not disk.writable:
        remedy = "make the folder writable, or set TURBOPILOT_CACHE to another one"
        return CheckResult("disk", "problem", f"{disk.folder} is not writable", remedy)
    if disk.free < _LEAST_DISK:
        remedy = (
            "free disk space (both caches can be deleted), or set TURBOPILOT_CACHE and HF_HUB_CACHE"
        )
        return CheckResult("disk", "problem", found, remedy)
    smallest = min(MODELS, key=lambda m: m.parameters)
    if disk.free < (needed := _PER_WEIGHT * smallest.parameters):
        remedy = f"free {size(needed - disk.free)} to convert even {smallest.alias}; both caches can be deleted"
        return CheckResult("disk", "warning", found, remedy)
    return CheckResult("disk", "ok", found)


def _judge_speed(speed: SpeedFacts | None) -> CheckResult:
    if speed is None:
        return CheckResult("speed", "skipped", "not measured (--no-speed)")
    comparable = speed.blas.lower() != _OWN_UNIT
    found = (
        f"bundled model, {count(speed.threads, 'thread')}: prefill {speed.prefill:,.0f} tokens/s ({speed.gain:.1f} "
        f"times one thread), decode {speed.decode:,.0f} tokens/s; one thread computes {speed.arithmetic:.0%} of "
        f"numpy's {speed.flops_alone / 1e9:,.0f} GFLOP/s ({speed.blas or 'BLAS unknown'}); memory "
        f"{speed.bandwidth / 1e9:,.0f} GB/s; the threads got {speed.processor_time:.0%} of the processor's time"
    )
    if speed.processor_time < LEAST_TIME:
        remedy = "look for busy programs (top), a quota, or a virtual machine whose host is busy; then run it again"
        return CheckResult("speed", "warning", found, remedy)
    if speed.threads > 1 and speed.gain < 1:
        remedy = "several threads are slower than one: look for busy programs (top), or try serve --threads 1"
        return CheckResult("speed", "warning", found, remedy)
    if comparable and speed.arithmetic < LEAST_ARITHMETIC:
        remedy = (
            f"one thread should reach at least {LEAST_ARITHMETIC:.0%} of numpy: llama.cpp may not use the processor's "
            f"instructions, so {REINSTALL}"
        )
        return CheckResult("speed", "warning", found, remedy, reinstall=True)
    return CheckResult("speed", "ok", found)


def _judge_port(port: PortFacts) -> CheckResult:
    if port.used_by == "another program":
        remedy = f"choose another port: turbopilot serve --port {port.port + 1}"
        return CheckResult("port", "warning", f"{port.port} is used by another program", remedy)
    used = "is used by a TurboPilot server" if port.used_by else "is free"
    return CheckResult("port", "ok", f"{port.port} {used}")


def _judge_server(server: ServerFacts) -> CheckResult:
    if not server.url:
        return CheckResult("server", "skipped", "none is running here; --url names another one")
    if not server.status:
        remedy = "start it with turbopilot serve, or correct --url"
        return CheckResult("server", "problem", f"{server.url}: {server.error}", remedy)
    reason = f": {server.reason}" if server.reason else ""
    found = f"{server.url} serves {server.model} (status {server.status}{reason})"
    if server.status in ("ok", "loading"):
        return CheckResult("server", "ok", found)
    if server.status == "draining":
        return CheckResult("server", "warning", found, "it is shutting down: start it again")
    return CheckResult("server", "problem", found, "read the server's log, and restart it")


def _judge_hub(hub: HubFacts) -> CheckResult:
    through = f" through {hub.proxy}" if hub.proxy else ""
    if hub.skipped:
        return CheckResult("hub", "skipped", f"{hub.endpoint}{through}: {hub.skipped}")
    if hub.error:
        remedy = (
            "check the network, HTTPS_PROXY and HF_ENDPOINT; models on this machine need no Hub "
            "(--offline skips this check)"
        )
        return CheckResult("hub", "warning", f"{hub.endpoint}{through}: {hub.error}", remedy)
    found = f"{hub.endpoint}{through} answers (status {hub.status})"
    if hub.status >= 500 or hub.status == 407:
        whose = (
            "the proxy's user and password" if hub.status == 407 else "HF_ENDPOINT, or try later"
        )
        return CheckResult("hub", "warning", found, f"check {whose}")
    return CheckResult("hub", "ok", found)


_CHECKS: Final[tuple[_Judge, ...]] = (
    judge_features,
    _of("cores", "cores", _judge_cores),
    _of("memory", "memory", _judge_memory),
    _of("disk", "disk", _judge_disk),
    judge_graphics,
    judge_build,
    _of("speed", "speed", _judge_speed),
    _of("port", "port", _judge_port),
    _of("server", "server", _judge_server),
    _of("hub", "hub", _judge_hub),
)
