"""Values of scripts/check_gpu: sizes, servers with equal settings, paces, and results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.servers import LLAMA_SERVER, OURS, Server
from turbopilot.base.machine import usable_cores

_TURBOPILOT = (sys.executable, "-m", "turbopilot")
_SAME_TEXT = ("--no-heal", "--no-end-loops")  # all servers generate the same tokens
_DEVICES = """
import json, sys
from turbopilot.llama.fitting import find_devices
from turbopilot.llama.placement_wish import PlacementWish
workers = tuple(filter(None, sys.argv[1].split(",")))
print(json.dumps({str(d): d.free for d in find_devices(PlacementWish(workers=workers))}))
"""


@dataclass(frozen=True)
class Pace:
    """Tokens/s of a prompt, and of a completion after it."""

    prompt: float
    generated: float


@dataclass(frozen=True)
class Work:
    """Requests of each stream, and the tokens of each."""

    requests: int
    prompt: int
    generated: int

    def seconds(self, pace: Pace, streams: int = 1) -> float:
        """Return how long it takes if all streams together have this pace."""
        each = self.prompt / pace.prompt + self.generated / pace.generated
        return streams * self.requests * each

    def fitting(self, pace: Pace, seconds: float, streams: int = 1) -> Work | None:
        """Return the most work that fits: fewer requests, then fewer tokens; None if not even 16 and 8 tokens fit."""
        work = self
        while work.seconds(pace, streams) > seconds:
            if work.requests > 1:
                work = replace(work, requests=work.requests // 2)
            elif min(work.prompt // 16, work.generated // 8) > 1:
                work = Work(1, work.prompt // 2, work.generated // 2)
            else:
                return None
        return work


@dataclass(frozen=True)
class GpuSizes:
    """Sizes of the check, which are reduced on a slow machine.

    Attributes:
        geometry: of the random model whose speed is measured.
        stream: most work of each stream of that measurement.
        compared: completions to compare with those of the processor.
        positions: positions that verify compares.
        rounds: measurements of each speed, of which the best counts, if there is time.
        compares_speed: whether the ratio of speeds is judged.
        least_fitted: layers for which half of the model's size is room; a tiny model is mostly its output head.
    """

    types: tuple[str, ...]
    geometry: str
    streams: tuple[int, ...]
    stream: Work
    compared: Work
    positions: int
    rounds: int = 2
    compares_speed: bool = True
    least_fitted: int = 1


FULL = GpuSizes(
    ("F16", "Q8_0", "Q4_K_M", "Q4_0"), "350M", (1, 8, 32), Work(8, 128, 64), Work(16, 128, 64), 1000
)
TINY = GpuSizes(
    ("F16", "Q4_0"), "tiny", (1, 2), Work(2, 24, 8), Work(3, 24, 8), 100, rounds=1, compares_speed=False, least_fitted=0
)  # fmt: skip


@dataclass(frozen=True)
class Peer:
    """A server, with its names for the settings that both servers share."""

    server: Server

    def settings(self, layers: int, streams: int, ctx: int, rpc: str) -> list[str]:
        """Return the arguments for `streams` slots of `ctx` tokens each, and `layers` on the GPU."""
        workers = ["--rpc", rpc] if rpc else []
        if self.server.name == OURS:
            slots = ["--parallel", str(streams), "--ctx", str(ctx), "--ngl", str(layers)]
            return [*slots, *_SAME_TEXT, *workers]
        slots = ["-np", str(streams), "-c", str(streams * ctx), "-ngl", str(layers)]
        return [*slots, "--no-kv-unified", "--cache-ram", "0", *workers]


@dataclass(frozen=True)
class StepResult:
    """Verdict on a step: passed, failed, or None if it was skipped; `detail` says what was seen or why."""

    name: str
    passed: bool | None
    detail: str


@dataclass
class SpeedRow:
    """Best tokens/s of all streams by server; a server that was not measured is missing.

    `work` is what each stream did; None until it is decided by the first server.
    """

    type_name: str
    layers: str
    streams: int
    speeds: dict[str, float] = field(default_factory=dict)
    work: Work | None = None

    @property
    def ratio(self) -> float | None:
        """TurboPilot's speed divided by llama-server's; None without both."""
        if {OURS, LLAMA_SERVER} <= self.speeds.keys():
            return self.speeds[OURS] / self.speeds[LLAMA_SERVER]
        return None


@dataclass
class GpuResults:
    """Everything that was found, in the order of the steps.

    Attributes:
        devices: free bytes of each device at the beginning.
        paces: speed of the bundled model by the name of the number of layers on the GPU.
        is_complete: whether no step is missing or was cut short.
    """

    doctor: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    speeds: list[SpeedRow] = field(default_factory=list)
    paces: dict[str, Pace] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def passed(self) -> bool:
        """Whether no step failed."""
        return all(s.passed is not False for s in self.steps)

    def add(self, name: str, passed: bool | None, detail: str) -> None:
        """Record a step, and print it."""
        self.steps.append(StepResult(name, passed, detail))
        word = {True: "passed", False: "FAILED", None: "skipped"}[passed]
        print(f"{name}: {word}: {detail}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class GpuCheck:
    """Settings of the check; the steps end at `deadline`, a value of `time.monotonic`."""

    folder: Path
    sizes: GpuSizes
    deadline: float
    rpc: str
    threads: int | None
    peers: tuple[Peer, ...]

    @property
    def ours(self) -> Peer:
        """TurboPilot among the servers."""
        return next(p for p in self.peers if p.server.name == OURS)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def n_threads(self) -> int:
        """Threads of each server."""
        return self.threads or usable_cores()


def run_turbopilot(*arguments: str, may_fail: bool = False, seconds: float | None = None) -> str:
    """Run a command of ours and return its stdout; "" if it failed and may fail.

    Raises:
        TimeoutExpired: it took more than `seconds`, and was ended.
    """
    command = [*_TURBOPILOT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode and not may_fail:
        raise SystemExit(f"turbopilot {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def both_ends(text: str) -> str:
    """Return the beginning and the end of a long error."""
    return text if len(text) < 600 else f"{text[:200]} … {text[-380:]}"


def free_memory(rpc: str) -> dict[str, int]:
    """Return the free bytes of each device, as a fresh process sees them."""
    command = [sys.executable, "-c", _DEVICES, rpc]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the devices cannot be listed:\n{done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found
