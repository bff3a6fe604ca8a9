"""Choice between flash attention and plain attention by measurement.

Which one is faster depends on the processor, the file's type and the model: on one machine with AVX-512 plain attention
decoded twice as fast, on another one flash attention served eight requests a third faster. Both are measured with the
loaded model, for about a second each, while the server is idle. The result is kept in the cache folder for the next
start with the same model file, processor, build of llama.cpp, options, and layers on the same devices.

On devices, nothing is measured while the server runs, because a context for measuring takes their memory: there,
`turbopilot bench --tune` measures, and the server uses its result. A context has one kind of attention for all its
devices. The type of the KV cache is never chosen by measurement, because it changes the results.
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from serve.decoder import BatchItem
from turbopilot.base.atomic import replacing
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import TurboPilotError
from turbopilot.base.machine import cpu_name
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.flash_attention import OFF, ON
from turbopilot.llama.library import build
from turbopilot.llama.model import LlamaModel

log = logging.getLogger("turbopilot.models")

# What is compared: a completion of a few lines, after the part of a prompt that is not cached.
PROMPT: Final = 128
GENERATED: Final = 32
# Tokens before the measured ones: a usual window of an editor.
DEPTH: Final = 384
ROUNDS: Final = 2
# Completions that are computed together, if the server may.
TOGETHER: Final = 4
# Seconds that one piece of work may take: a request that comes meanwhile has to wait for it.
PIECE_SECONDS: Final = 0.25
# Plain attention must be faster by this much, because it needs more memory.
MARGIN: Final = 0.03
# Cells of each sequence in the contexts that are measured; llama.cpp rounds up to a multiple of 256.
CELLS: Final = -(-(DEPTH + PROMPT + 2 * GENERATED) // 256) * 256


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a token of a prompt, for the next token of a completion, and for a token of several completions."""

    prompt: float
    decode: float
    together: float

    @property
    def completion(self) -> float:
        """Seconds for a completion, half of which is computed together with others."""
        return PROMPT * self.prompt + GENERATED * (self.decode + self.together) / 2


@dataclass(frozen=True, slots=True)
class Tuning:
    """Speeds with flash attention and with plain attention."""

    flash: Speed
    plain: Speed

    @property
    def flash_attention(self) -> int:
        """The faster one, as a value for `ContextParameters.flash_attention`."""
        return OFF if self.plain.completion < (1 - MARGIN) * self.flash.completion else ON

    @property
    def name(self) -> str:
        """Name of the faster one."""
        return "flash" if self.flash_attention == ON else "plain"

    def line(self) -> str:
        """Return the result as a log line."""
        ratio = self.plain.completion / self.flash.completion
        return (
            f"{self.name} attention: a completion takes {1000 * self.flash.completion:,.0f} ms with flash attention, "
            f"{1000 * self.plain.completion:,.0f} ms without it ({ratio:.2f} times)"
        )


def measure(model: LlamaModel, parameters: ContextParameters) -> Iterator[Tuning | None]:
    """Measure both kinds of attention in small pieces of work.

    Args:
        model: the loaded model.
        parameters: those of the served context.

    Yields:
        None after each piece of work, and the result at the end.

    Raises:
        TurboPilotError: a context cannot be created, or cannot compute.
    """
    n_seq = min(parameters.n_seq, TOGETHER)
    small = replace(
        parameters,
        n_ctx=CELLS if parameters.kv_unified else CELLS * n_seq,
        n_seq=n_seq,
        n_outputs=n_seq,
    )
    found: dict[int, list[Speed]] = {ON: [], OFF: []}
    for _ in range(ROUNDS):
        for kind, speeds in found.items():
            context = LlamaContext(model, replace(small, flash_attention=kind))
            try:
                yield from _measure_context(context, n_seq, speeds)
            finally:
                context.close()
    yield Tuning(_best(found[ON]), _best(found[OFF]))


def _measure_context(context: LlamaContext, n_seq: int, speeds: list[Speed]) -> Iterator[None]:
    at, n_piece, seconds, n_measured = 0, 32, 0.0, 0
    while at < DEPTH + PROMPT:
        n = min(n_piece, DEPTH + PROMPT - at)
        took = _seconds(context, at, n)
        at += n
        if at > DEPTH:
            seconds += took
            n_measured += n
        n_piece = max(1, min(PROMPT, int(n * PIECE_SECONDS / max(took, 1e-6))))
        yield
    alone: list[float] = []
    yield from _decode(context, at, 1, alone)
    context.remove(0, at)
    for seq in range(1, n_seq):
        context.copy(0, seq, at)
    together: list[float] = []
    yield from _decode(context, at, n_seq, together)
    decode = statistics.median(alone)
    speeds.append(Speed(seconds / n_measured, decode, statistics.median(together) / n_seq))


def _decode(context: LlamaContext, at: int, n_seq: int, times: list[float]) -> Iterator[None]:
    """Decode `GENERATED` tokens of each sequence from position `at` on; append the seconds of each step."""
    end = at + GENERATED
    while at < end:
        began = time.perf_counter()
        while at < end and time.perf_counter() - began < PIECE_SECONDS:
            times.append(_seconds(context, at, 1, n_seq))
            at += 1
        yield


def _seconds(context: LlamaContext, at: int, n: int, n_seq: int = 1) -> float:
    """Return how long `n` tokens of each sequence take, from position `at` on."""
    items = [
        BatchItem((7 * i + 1) % context.model.n_vocab, i, seq, i == at + n - 1)
        for seq in range(n_seq)
        for i in range(at, at + n)
    ]
    began = time.perf_counter()
    context.decode(items)
    return time.perf_counter() - began


def _best(speeds: list[Speed]) -> Speed:
    """Return the least times: whatever else the machine did made a round slower, never faster."""
    return Speed(*(min(getattr(s, f.name) for s in speeds) for f in fields(Speed)))


class TuningCache:
    """Results of measurements, in a JSON file for each combination that they depend on.

    Args:
        model: the loaded model.
        parameters: those of the served context.
        folder: folder of the files; None is the cache folder.
    """

    def __init__(
        self, model: LlamaModel, parameters: ContextParameters, folder: Path | None = None
    ) -> None:
        stat = model.header.path.stat()
        key = (
            model.header.path.name, stat.st_size, stat.st_mtime_ns, build(), cpu_name(), parameters.n_threads,
            parameters.cache_type, model.placed,
        )  # fmt: skip
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
        self._file = (folder or cache_folder() / "tuning") / f"{name}.json"

    def read(self) -> Tuning | None:
        """Return the stored result; None if there is none."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            value = json.loads(self._file.read_text("utf-8"))
            flash, plain = Speed(**value["flash"]), Speed(**value["plain"])
            if all(0 < t < 1e6 for s in (flash, plain) for t in asdict(s).values()):
                return Tuning(flash, plain)
        return None

    def write(self, tuning: Tuning) -> None:
        """Store a result; a failure is only logged, since the next start can measure again."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as part:
                part.write_text(json.dumps(asdict(tuning)), "utf-8")
        except (OSError, TurboPilotError) as e:
            log.warning("the result of tuning could not be stored: %s", e)
