"""llama.cpp's own words: kept for error messages, parsed for what was really offloaded. No llama_cpp here."""

from __future__ import annotations

import logging
import re
from collections import deque

log = logging.getLogger("turbopilot.llama")

# Source: enum ggml_log_level in ggml.h (the comment in llama_cpp/_logger.py lists an older one). CONT
# continues the line before it.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_CONT = 5
_KEPT_LINES = 400
# Source: llama-model.cpp, load_tensors.
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# Source: llama-kv-cache.cpp, which says it once for each cache: models with windows in some layers have two.
_KV_SIZE = re.compile(r"size = +([\d.]+) MiB \(.*\bK \(\w+\):.*\bV \(\w+\):")


class LogCapture:
    """Joins llama.cpp's fragments into lines, keeps the last of them and passes them on to `logging`."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_KEPT_LINES)
        # Read as they are said: a model of many layers says more after them than is kept.
        self._offloaded: tuple[int, int] | None = None
        self._kv_mib = 0.0
        self._level = logging.INFO
        self._partial = ""

    def write(self, level: int, text: bytes) -> None:
        """What the C callback gets: a level and a piece of text, usually one line."""
        if level != _CONT:
            self._level = _LEVELS.get(level, logging.INFO)
        *lines, self._partial = (self._partial + text.decode("utf-8", "replace")).split("\n")
        for line in filter(None, (x.strip() for x in lines)):
            self._lines.append((self._level, line))
            if match := _OFFLOADED.search(line):
                self._offloaded = int(match[1]), int(match[2])
            elif match := _KV_SIZE.search(line):
                self._kv_mib += float(match[1])
            # What is worth showing is told by us; the rest is for --debug.
            log.debug("%s", line)

    def clear(self) -> None:
        """Begin anew, before a load."""
        self._lines.clear()
        self._partial = ""
        self._offloaded, self._kv_mib = None, 0.0

    def last_errors(self, most: int = 3) -> str:
        """The last error lines, oldest first; "" where there are none."""
        errors = [line for level, line in self._lines if level >= logging.ERROR]
        return "; ".join(dict.fromkeys(errors[-most:]))

    def offloaded(self) -> tuple[int, int] | None:
        """(Layers on the GPU, layers in all), from the last load."""
        return self._offloaded

    def kv_bytes(self) -> int:
        """Size of the KV cache, from the last load; 0 where llama.cpp made none."""
        return int(self._kv_mib * 2**20)


capture = LogCapture()
"""Of this process: llama.cpp has one log."""
