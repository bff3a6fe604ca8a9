"""Log of llama.cpp, kept for error messages and parsed for memory allocations."""

from __future__ import annotations

import logging
import re
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from turbopilot.base.quoting import shortened

# Source: enum ggml_log_level in ggml.h; CONT continues the previous line.
_LEVELS: Final = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONT: Final = 5
# Source: llama-model.cpp, load_tensors.
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# Place, kind, MiB. Source: llama-model.cpp, llama-kv-cache.cpp, llama-context.cpp and llama-memory-recurrent.cpp:
# "load_tensors:   CPU_Mapped model buffer size =   256.63 MiB".
_BUFFER: Final = re.compile(r"(\S+)\s+(model|KV|RS|output|compute) buffer size =\s*([\d.]+) MiB")
# "llama_kv_cache: size = 23.91 MiB (  2048 cells, …), K (q8_0): …" is logged once for each cache, even if nothing is
# allocated. Models with sliding windows in some layers have two caches.
_CACHE: Final = re.compile(r"size =\s*([\d.]+) MiB \(.*\bK \(\w+\):")
# Source: load_tensors, llama-kv-cache.cpp, sched_reserve; ggml-backend.cpp, ggml-alloc.c and the backends.
_OUT_OF_MEMORY: Final = re.compile(
    r"unable to allocate|failed to allocate|out of memory|failed to reserve|allocation of .* failed",
    re.IGNORECASE,
)
# Source: load_tensors, at level DEBUG: "load_tensors: layer   3 assigned to device CUDA0, is_swa = 0".
_ASSIGNED: Final = re.compile(r"layer\s+(\d+) assigned to device ([^\s,]+)")
_LONGEST: Final = 300  # characters of a line: some quote a file's metadata
_REPLACED: Final = ("output", "compute")  # logged again when the buffer grows; other kinds add up


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes that llama.cpp allocated, accurate to hundredths of a MiB.

    Attributes:
        model: weights, including mapped ones.
        kv: KV cache, and the state of a recurrent model.
        compute: activations.
        output: logits.
        places: place ("CPU", "CPU_Mapped", "CUDA0") → bytes of all kinds there.
        kinds: kind → place → bytes; the kinds are "model", "KV", "RS", "output" and "compute".
    """

    model: int
    kv: int
    compute: int
    output: int
    places: dict[str, int]
    kinds: dict[str, dict[str, int]]


class LlamaLog:
    """Last 400 lines of llama.cpp's log in a process, each with a `logging` level.

    `offloaded` is (layers on the GPU, all layers) of the last loaded model, and `assigned` the device of each layer,
    the output head being the last one. `forward` receives each piece of text with llama.cpp's level; if it is None,
    complete lines are written to `logging`.
    """

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=400)
        self.forward: Callable[[int, str], None] | None = None
        self.clear()

    def clear(self) -> None:
        """Clear the log before a model is loaded."""
        self.lines.clear()
        self._partial, self._level = "", logging.INFO
        # Parsed as the lines arrive, because a large model later logs more lines than are kept.
        self.offloaded: tuple[int, int] | None = None
        self.assigned: dict[int, str] = {}
        self.is_out_of_memory = False
        self._buffers: dict[tuple[str, str], int] = defaultdict(int)
        self._caches = 0

    def write(self, level: int, text: str) -> None:
        """Add a piece of text, usually one line."""
        if level != _CONT:
            self._level = _LEVELS.get(level, logging.INFO)
        if self.forward:
            self.forward(level, text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in filter(None, (x.strip() for x in lines)):
            self._add(line)

    def _add(self, line: str) -> None:
        line = shortened(line, _LONGEST)
        self.lines.append((self._level, line))
        if not self.forward:
            logging.getLogger("turbopilot.llama").debug("%s", line)
        if found := _OFFLOADED.search(line):
            self.offloaded = int(found[1]), int(found[2])
        if found := _ASSIGNED.search(line):
            self.assigned[int(found[1])] = found[2]
        if self._level >= logging.ERROR and _OUT_OF_MEMORY.search(line):
            self.is_out_of_memory = True
        if found := _CACHE.search(line):
            self._caches += round(float(found[1]) * 2**20)
        if found := _BUFFER.search(line):
            place, kind, size = found[1], found[2], round(float(found[3]) * 2**20)
            before = 0 if kind in _REPLACED else self._buffers[kind, place]
            self._buffers[kind, place] = before + size

    def buffers(self) -> Buffers:
        """Return the allocations of one model with one context."""
        kinds: dict[str, int] = defaultdict(int)
        places: dict[str, int] = defaultdict(int)
        each: dict[str, dict[str, int]] = defaultdict(dict)
        for (kind, place), size in self._buffers.items():
            each[kind][place] = size
            kinds[kind] += size
            places[place] += size
        kv = max(kinds["KV"], self._caches) + kinds["RS"]
        return Buffers(
            kinds["model"], kv, kinds["compute"], kinds["output"], dict(places), dict(each)
        )

    def errors(self, most: int = 3) -> str:
        """Return the last error lines, oldest first; "" if there are none."""
        found = [line for level, line in self.lines if level >= logging.ERROR]
        return "; ".join(dict.fromkeys(found[-most:]))

    def reason(self) -> str:
        """Return the last errors, or else the last lines of any level."""
        last = [line for _, line in self.lines][-3:]
        return self.errors() or "; ".join(last) or "no reason given"
