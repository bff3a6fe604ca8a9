"""Values of scripts/check_gpu: sizes, servers with equal settings, model files, and results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from bench.random_checkpoint import make_checkpoint
from bench.servers import LLAMA_SERVER, OURS, Server
from bench.workload import Texts
from turbopilot.base.machine import usable_cores
from turbopilot.formats.gguf.file import read_gguf

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
class GpuSizes:
    """Sizes of the check: types, geometry, streams, (prompt, generated) tokens of a request, completions to compare.

    `positions` is the number of positions that verify compares. Half of the model's size is room for at least
    `least_fitted` layers; a tiny model is mostly its output head.
    """

    types: tuple[str, ...]
    geometry: str
    streams: tuple[int, ...]
    tokens: tuple[int, int]
    completions: int
    positions: int
    compares_speed: bool = True
    least_fitted: int = 1


FULL = GpuSizes(("F16", "Q8_0", "Q4_K_M", "Q4_0"), "350M", (1, 8, 32), (128, 64), 16, 1000)
TINY = GpuSizes(
    ("F16", "Q4_0"), "tiny", (1, 2), (24, 8), 3, 100, compares_speed=False, least_fitted=0
)


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


@dataclass(frozen=True)
class SpeedRow:
    """Tokens/s of all streams by server; a server that failed is missing."""

    type_name: str
    layers: str
    streams: int
    speeds: dict[str, float]

    @property
    def ratio(self) -> float | None:
        """TurboPilot's speed divided by llama-server's; None without both."""
        if {OURS, LLAMA_SERVER} <= self.speeds.keys():
            return self.speeds[OURS] / self.speeds[LLAMA_SERVER]
        return None


@dataclass
class GpuResults:
    """Everything that was found, in the order of the steps."""

    doctor: dict[str, Any] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    speeds: list[SpeedRow] = field(default_factory=list)
    has_gpu: bool = False

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
    """Settings of the check; `deadline` is a value of `time.monotonic`."""

    folder: Path
    sizes: GpuSizes
    deadline: float
    rpc: str
    threads: int | None
    peers: tuple[Peer, ...]

    def has_time(self, seconds: float = 0) -> bool:
        """Return whether a step of this length ends before the deadline."""
        return time.monotonic() + seconds < self.deadline

    @property
    def n_threads(self) -> int:
        """Threads of each server."""
        return self.threads or usable_cores()


class Models:
    """Model files in all types, made when they are first needed: the bundled model, or a random one."""

    def __init__(self, check: GpuCheck, name: str) -> None:
        self._folder, self._geometry = check.folder, check.sizes.geometry
        self._name = name

    @cached_property
    def f16(self) -> Path:
        source, path = "demo", self._folder / f"{self._name}-F16.gguf"
        if self._name == "random":
            source = str(self._folder / "checkpoint")
            make_checkpoint(Path(source), self._geometry)
        run_turbopilot("convert", source, "-o", str(path))
        return path

    @cached_property
    def n_layers(self) -> int:
        """Layers, without the output layer."""
        header = read_gguf(self.f16)
        return int(str(header.metadata[f"{header.architecture}.block_count"]))

    def layers(self) -> dict[str, int]:
        """Return the numbers of layers to put on the GPU, by name; "all" includes the output layer."""
        return {"all": self.n_layers + 1, "half": self.n_layers // 2, "0": 0}

    def prompts(self, n: int, n_tokens: int) -> list[str]:
        """Return up to `n` prompts of `n_tokens` that share nothing."""
        texts = Texts(self.f16)
        found = list(islice(texts.fresh(n_tokens), n))
        texts.close()
        return found

    def file(self, type_name: str) -> Path:
        """Return the file of a type."""
        path = self._folder / f"{self._name}-{type_name}.gguf"
        if not path.exists() and path != self.f16:
            run_turbopilot("quantize", str(self.f16), type_name, "-o", str(path))
        return path


def run_turbopilot(*arguments: str, may_fail: bool = False) -> str:
    """Run a command of ours and return its stdout; "" if it failed and may fail."""
    done = subprocess.run([*_TURBOPILOT, *arguments], capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise SystemExit(f"turbopilot {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def has_option(verb: str, option: str) -> bool:
    """Return whether a verb of this version has an option."""
    return option in re.findall(r"--[\w-]+", run_turbopilot(verb, "--help"))


def free_memory(rpc: str) -> dict[str, int]:
    """Return the free bytes of each device, as a fresh process sees them."""
    command = [sys.executable, "-c", _DEVICES, rpc]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the devices cannot be listed:\n{done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found
