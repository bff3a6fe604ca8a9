"""Python's share of a decode step, measured with the engine in this process and timers around llama.cpp's calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.workload import Sizes, Texts

N_SEQUENCES = (1, 8)
# The functions that compute, or wait for the computation.
_COMPUTE = ("llama_decode", "llama_synchronize")


@dataclass
class Clock:
    """Seconds spent in llama.cpp, and number of calls of each function."""

    seconds: float = 0.0
    calls: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched() -> Iterator[Clock]:
    """Time every call of the functions that compute; restore them on exit."""
    import llama_cpp

    clock = Clock()
    real = {name: getattr(llama_cpp, name) for name in _COMPUTE}

    def around(name: str) -> Callable[..., Any]:
        function = real[name]

        def call(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                clock.seconds += time.perf_counter() - began
                clock.calls[name] = clock.calls.get(name, 0) + 1

        return call

    for name in _COMPUTE:
        setattr(llama_cpp, name, around(name))
    try:
        yield clock
    finally:
        for name, function in real.items():
            setattr(llama_cpp, name, function)


def measure_overhead(model: Path, threads: int, sizes: Sizes) -> dict[str, float]:
    """Measure the time of a step spent outside llama.cpp, in percent and in µs, with 1 and 8 sequences.

    Raises:
        SystemExit: the engine called llama.cpp in a way that is not timed.
    """
    found: dict[str, float] = {}
    texts = Texts(model)
    prompts = [p for p, _ in zip(texts.fresh(sizes.prompt), range(max(N_SEQUENCES)), strict=False)]
    texts.close()
    for n in N_SEQUENCES:
        steps = _generate(model, threads, prompts[:n], sizes.one[1])
        # Medians: one step delayed by another process would hide Python's share.
        ours, step = (statistics.median(values) for values in zip(*steps, strict=True))
        found[f"python_percent_{n}"] = 100 * ours / step
        found[f"python_us_{n}"] = 1e6 * ours
        found[f"step_ms_{n}"] = 1000 * step
    return found


def _generate(
    model: Path, threads: int, prompts: list[str], n_tokens: int
) -> list[tuple[float, float]]:
    """Return (seconds outside llama.cpp, all seconds) of each step that decodes a token for every sequence."""
    from serve.engine import Engine, EngineOptions
    from serve.llama import load
    from serve.request import GenerationRequest, SamplingParams
    from serve.settings import ModelOptions

    decoder, _ = load(model, ModelOptions(threads=threads, n_seq=len(prompts)))
    try:
        engine = Engine(decoder, EngineOptions(n_slots=len(prompts), drafts=False))
        greedy = SamplingParams(temperature=0.0)
        tokens = [tuple(decoder.tokenize(text, parse_special=False)) for text in prompts]
        # Prefill first: on a slow machine the prompts take several steps, and the first sequence would end before the
        # last one starts.
        for i, prompt in enumerate(tokens):
            engine.submit(i, GenerationRequest(prompt, 0, sampling=greedy))
            while engine.has_work:
                engine.step()
        for i, prompt in enumerate(tokens):
            engine.submit(len(tokens) + i, GenerationRequest(prompt, n_tokens, sampling=greedy))
        with watched() as clock:
            generating: set[int] = set()
            while engine.has_work and len(generating) < len(prompts):  # the last prompt tokens
                generating.update(i for i, _ in engine.step())
            clock.calls.clear()
            steps: list[tuple[float, float]] = []
            ended = False
            while engine.has_work and not ended:  # until the first sequence ends
                began, clock.seconds = time.perf_counter(), 0.0
                ended = any(hasattr(event, "reason") for _, event in engine.step())
                seconds = time.perf_counter() - began
                steps.append((seconds - clock.seconds, seconds))
            if not clock.calls.get("llama_decode"):
                raise SystemExit("overhead: no step of all sequences called llama_cpp.llama_decode")
            return steps
    finally:
        decoder.close()
