"""Conclusions of `turbopilot doctor` from facts: a machine without faults, and each kind of fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from turbopilot.app.doctor import CheckResult, Failed, Machine, is_well, judge, reinstallation
from turbopilot.app.doctor.facts import (
    BuildFacts,
    CoreFacts,
    DiskFacts,
    GraphicsFacts,
    HubFacts,
    MemoryFacts,
    PortFacts,
    ProcessorFacts,
    ServerFacts,
    SpeedFacts,
)
from turbopilot.base.backends import BY_NAME, CPU, BackendChoice
from turbopilot.base.graphics import AMD, INTEL, NVIDIA, GraphicsCard

PROCESSOR = ProcessorFacts("a processor", frozenset({"AVX", "AVX2"}), frozenset({"AVX512"}))
BUILD = BuildFacts("0.3.36", frozenset({"AVX", "AVX2"}), ("CPU",), frozenset({"cpu"}), ())
NO_GPU = GraphicsFacts((), BackendChoice(CPU, "no GPU"))
CARD = GraphicsCard(NVIDIA, "NVIDIA L4", "nvidia 550", "CUDA 12.4", 24 << 30, 23 << 30)
FOR_CUDA = GraphicsFacts((CARD,), BackendChoice(BY_NAME["cuda"], CARD.name))
CUDA_BUILD = replace(BUILD, backends=("CUDA", "CPU"), built=frozenset({"cpu", "cuda"}))
INTEGRATED = GraphicsCard(INTEL, "GPU 46a6", is_integrated=True)
# Half of numpy's arithmetic.
SPEED = SpeedFacts(
    prefill=9000, decode=1000, prefill_alone=5000, weights=5_000_000, flops_alone=100e9, blas="scipy-openblas",
    bandwidth=20e9, processor_time=0.97, threads=2,
)  # fmt: skip
DISK = DiskFacts(Path("/cache"), 50 << 30, True, 1 << 20, Path("/hub"), 1 << 30)
MEMORY = MemoryFacts(32 << 30, 32 << 30, 30 << 30)
HEALTHY = Machine(
    processor=PROCESSOR, cores=CoreFacts(4, 4, None), memory=MEMORY, disk=DISK, graphics=NO_GPU,
    build=BUILD, speed=SPEED, port=PortFacts(18080, ""), hub=HubFacts("https://hub", status=200),
    server=ServerFacts(""),
)  # fmt: skip


def result(name: str, **facts: Any) -> CheckResult:
    """Return the result of one check of the healthy machine with other facts."""
    return next(r for r in judge(replace(HEALTHY, **facts)) if r.name == name)


def test_healthy_machine_is_well() -> None:
    results = judge(HEALTHY)
    assert is_well(results)
    assert {r.state for r in results} == {"ok", "skipped"}
    assert not any(r.remedy for r in results)
    assert reinstallation(HEALTHY, results) is None
    assert len({r.name for r in results}) == len(results)


@pytest.mark.parametrize(
    ("name", "state", "facts", "found", "remedy"),
    [
        ("processor", "problem", {"build": replace(BUILD, features=frozenset({"AVX512"}))}, "lacks AVX512", "--fix"),
        ("processor", "warning", {"build": replace(BUILD, features=frozenset({"AVX"}))}, "not AVX2", "--fix"),
        ("processor", "ok",
         {"build": replace(BUILD, features=frozenset({"AVX"}), built=frozenset({"cpu", "portable"}))}, "AVX", ""),
        ("processor", "skipped", {"processor": ProcessorFacts("x", frozenset(), frozenset())}, "not report", ""),
        ("processor", "skipped", {"build": Failed("crashed")}, "cannot be loaded", ""),
        ("cores", "ok", {"cores": CoreFacts(64, 4, 4.0)}, "4 of 64", ""),
        ("cores", "warning", {"cores": CoreFacts(4, 4, 0.5)}, "0.5 cores' time", "at least one core"),
        ("memory", "ok", {"memory": MemoryFacts(64 << 30, 8 << 30, 7 << 30)}, "limited to 8.6 GB", ""),
        ("memory", "warning", {"memory": MemoryFacts(32 << 30, 32 << 30, 8 << 30)}, "free", "--model-memory"),
        ("memory", "warning", {"memory": MemoryFacts(1 << 30, 1 << 30, 200 << 20)}, "free", "bundled model"),
        ("memory", "problem", {"memory": MemoryFacts(1 << 30, 1 << 30, 50 << 20)}, "free", "close"),
        ("disk", "problem", {"disk": replace(DISK, writable=False)}, "not writable", "TURBOPILOT_CACHE"),
        ("disk", "problem", {"disk": replace(DISK, free=10 << 20)}, "10.5 MB free", "free disk space"),
        ("disk", "warning", {"disk": replace(DISK, free=200 << 20)}, "free", "to convert even"),
        ("gpu", "warning", {"graphics": replace(FOR_CUDA, cards=(replace(CARD, driver=""),))}, "no driver",
         "NVIDIA's driver"),
        ("gpu", "warning", {"graphics": replace(FOR_CUDA, cards=(replace(CARD, driver="nouveau 1"),))}, "nouveau",
         "NVIDIA's driver"),
        ("gpu", "warning", {"graphics": replace(FOR_CUDA, cards=(GraphicsCard(AMD, "GPU 744c"),))}, "AMD GPU 744c",
         "amdgpu"),
        ("gpu", "warning", {"graphics": replace(FOR_CUDA, cards=(replace(CARD, is_visible=False),))},
         "no device files here", "--gpus all"),
        ("gpu", "ok", {"graphics": replace(NO_GPU, cards=(INTEGRATED,))}, "Intel GPU 46a6 (no driver", ""),
        ("llama.cpp", "ok", {"graphics": replace(NO_GPU, cards=(replace(INTEGRATED, driver="i915"),))}, "no GPU", ""),
        ("gpu", "warning", {"graphics": replace(FOR_CUDA, nvcc="13.0")}, "nvcc 13.0", "CUDA toolkit 12.4"),
        ("gpu", "ok", {"graphics": replace(FOR_CUDA, nvcc="12.8")}, "NVIDIA L4 (nvidia 550, CUDA 12.4, 25.8 GB", ""),
        ("llama.cpp", "problem", {"build": Failed("was terminated by signal 4")}, "signal 4", "--fix"),
        ("llama.cpp", "problem", {"build": replace(BUILD, backends=())}, "no backend", "--fix"),
        ("llama.cpp", "warning", {"graphics": FOR_CUDA}, "the GPU is not used", "for cuda: turbopilot doctor --fix"),
        ("llama.cpp", "warning",
         {"graphics": replace(FOR_CUDA, choice=BackendChoice(CPU, "no GPU that can be used", "install nvcc"))},
         "the GPU is not used", "install nvcc"),
        ("llama.cpp", "warning", {"graphics": FOR_CUDA, "build": CUDA_BUILD}, "finds no GPU", "CUDA_VISIBLE_DEVICES"),
        ("llama.cpp", "ok", {"graphics": FOR_CUDA, "build": replace(CUDA_BUILD, devices=("CUDA0 (L4)",))},
         "CUDA0 (L4)", ""),
        ("speed", "ok", {"speed": SPEED}, "one thread computes 50% of numpy's 100 GFLOP/s", ""),
        ("speed", "warning", {"speed": replace(SPEED, processor_time=0.5)}, "got 50%", "busy programs"),
        ("speed", "warning", {"speed": replace(SPEED, prefill=4000)}, "(0.8 times one thread)", "--threads 1"),
        ("speed", "ok", {"speed": replace(SPEED, prefill=4000, threads=1)}, "1 thread:", ""),
        ("speed", "warning", {"speed": replace(SPEED, flops_alone=300e9)}, "17% of numpy's", "doctor --fix"),
        ("speed", "ok", {"speed": replace(SPEED, flops_alone=2000e9, blas="accelerate")}, "2% of numpy's", ""),
        # Of 64 threads, each waits most of the time, which is not a fault.
        ("speed", "ok", {"speed": replace(SPEED, prefill=20_000, decode=300, threads=64)}, "4.0 times", ""),
        ("speed", "skipped", {"speed": None}, "--no-speed", ""),
        ("port", "warning", {"port": PortFacts(18080, "another program")}, "another program", "--port 18081"),
        ("port", "ok", {"port": PortFacts(18080, "turbopilot")}, "TurboPilot server", ""),
        ("server", "ok", {"server": ServerFacts("http://x", "ok", "demo")}, "serves demo", ""),
        ("server", "ok", {"server": ServerFacts("http://x", "loading", "demo")}, "loading", ""),
        ("server", "warning", {"server": ServerFacts("http://x", "draining", "demo")}, "draining", "start it again"),
        ("server", "problem", {"server": ServerFacts("http://x", "stalled", "demo", "too slow")},
         "stalled: too slow", "restart"),
        ("server", "problem", {"server": ServerFacts("http://x", error="refused")}, "refused", "turbopilot serve"),
        ("hub", "skipped", {"hub": HubFacts("https://hub", skipped="HF_HUB_OFFLINE is set")}, "HF_HUB_OFFLINE", ""),
        ("hub", "warning", {"hub": HubFacts("https://hub", "http://proxy:1", error="timed out")},
         "through http://proxy:1: timed out", "HTTPS_PROXY"),
        ("hub", "warning", {"hub": HubFacts("https://hub", status=407)}, "407", "user and password"),
        ("hub", "warning", {"hub": HubFacts("https://hub", status=503)}, "503", "HF_ENDPOINT"),
    ],
)  # fmt: skip
def test_fault_is_named_with_its_remedy(
    name: str, state: str, facts: dict[str, Any], found: str, remedy: str
) -> None:
    one = result(name, **facts)
    assert one.state == state
    assert found in one.found
    assert remedy in one.remedy
    assert bool(one.remedy) == (state in ("warning", "problem"))
    assert is_well([one]) == (state in ("ok", "skipped"))


def test_failed_probe_is_reported_by_its_check() -> None:
    everything = Machine(**dict.fromkeys(Machine.__slots__, Failed("it took more than 15 s")))
    results = judge(everything)
    assert {r.name for r in results if r.state == "problem"} == {r.name for r in results}
    assert all("it took more than 15 s" in r.found for r in results)


@pytest.mark.parametrize(
    ("facts", "backend"),
    [
        ({"graphics": FOR_CUDA}, "cuda"),
        ({"build": Failed("libcuda.so.1: cannot open")}, "cpu"),
        ({"build": Failed("crashed"), "graphics": Failed("crashed")}, "cpu"),
        ({"build": replace(BUILD, features=frozenset({"AVX"}))}, "cpu"),
    ],
)
def test_reinstallation_is_for_the_backend_that_suits(facts: dict[str, Any], backend: str) -> None:
    machine = replace(HEALTHY, **facts)
    fix = reinstallation(machine, judge(machine))
    assert fix is not None
    assert fix.backend.name == backend
    assert all(option in fix.shell for option in fix.backend.cmake)
