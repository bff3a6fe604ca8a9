"""Facts that `turbopilot doctor` observes: one value for each probe, before anything is judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbopilot.base.backends import BackendChoice
from turbopilot.base.graphics import GraphicsCard


@dataclass(frozen=True, slots=True)
class Failed:
    """A probe that raised an exception, was killed, or exceeded its time limit; `why` is a sentence without a stop."""

    why: str


@dataclass(frozen=True, slots=True)
class ProcessorFacts:
    """A processor, with the features that it has and lacks, by llama.cpp's names: AVX2, NEON.

    Features that the operating system does not report are in neither set.
    """

    name: str
    has: frozenset[str]
    lacks: frozenset[str]


@dataclass(frozen=True, slots=True)
class CoreFacts:
    """Cores: physical ones of the machine, those that this process may run on, and its quota in cores if it has one."""

    physical: int
    allowed: int
    quota: float | None


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Main memory in bytes: of the machine, usable within a container's limit, and free."""

    installed: int
    usable: int
    free: int


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """Disk of the cache folder. `files` and `hub_files` are the bytes of our cache and of the Hub's."""

    folder: Path
    free: int
    writable: bool
    files: int
    hub_folder: Path
    hub_files: int


@dataclass(frozen=True, slots=True)
class GraphicsFacts:
    """GPUs, the backend that this machine can compile for them, and the version of its CUDA compiler, "" for none."""

    cards: tuple[GraphicsCard, ...]
    choice: BackendChoice
    nvcc: str = ""


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """The installed llama.cpp.

    Attributes:
        version: of llama-cpp-python.
        features: processor features that it was compiled for, by llama.cpp's names.
        backends: as they register themselves: CPU, CUDA, ROCm, Vulkan, RPC.
        built: backends that it was compiled for, by our names; "portable" has libraries for several processors.
        devices: GPUs that it can use.
    """

    version: str
    features: frozenset[str]
    backends: tuple[str, ...]
    built: frozenset[str]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpeedFacts:
    """Speed of the bundled model on the processor, and of the processor without llama.cpp.

    Attributes:
        prefill: tokens/s of all threads.
        decode: tokens/s of all threads.
        prefill_alone: tokens/s of one thread.
        weights: number of weights that a token is multiplied with.
        flops_alone: arithmetic operations/s of numpy's product of F32 matrices on one thread.
        blas: name of the library that computes this product.
        bandwidth: bytes/s that all threads read and write while they copy a block that no cache holds.
        processor_time: share of the time in which the system let these threads run.
        threads: threads of the measurements but those of one thread.
    """

    prefill: float
    decode: float
    prefill_alone: float
    weights: int
    flops_alone: float
    blas: str
    bandwidth: float
    processor_time: float
    threads: int

    @property
    def arithmetic(self) -> float:
        """Operations/s of llama.cpp on one thread, as a share of numpy's."""
        return 2 * self.weights * self.prefill_alone / self.flops_alone

    @property
    def gain(self) -> float:
        """Prefill of all threads, as a multiple of that of one."""
        return self.prefill / self.prefill_alone


@dataclass(frozen=True, slots=True)
class PortFacts:
    """The default port of `serve`: free, or who answers there."""

    port: int
    used_by: Literal["", "turbopilot", "another program"]


@dataclass(frozen=True, slots=True)
class HubFacts:
    """The way to the Hugging Face Hub.

    Attributes:
        proxy: the proxy for this endpoint; "" if there is none.
        skipped: why no request was sent; "" if one was.
        status: status of the response; 0 if there was none.
        error: why there was no response.
    """

    endpoint: str
    proxy: str = ""
    skipped: str = ""
    status: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A running server.

    Attributes:
        url: "" if no server was asked.
        status: as /health reports it; "" if the response is not TurboPilot's.
        model: name of the default model.
        reason: why it is not "ok".
        error: why there was no response.
    """

    url: str
    status: str = ""
    model: str = ""
    reason: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """All facts about a machine and an installation. `speed` is None if it was not to be measured."""

    processor: ProcessorFacts | Failed
    cores: CoreFacts | Failed
    memory: MemoryFacts | Failed
    disk: DiskFacts | Failed
    graphics: GraphicsFacts | Failed
    build: BuildFacts | Failed
    speed: SpeedFacts | Failed | None
    port: PortFacts | Failed
    hub: HubFacts | Failed
    server: ServerFacts | Failed
