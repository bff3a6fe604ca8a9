"""Speed of the bundled model, beside the speed of the processor's arithmetic and memory without llama.cpp.

What a processor should do is measured on it, with numpy's products of F32 matrices and its copies: their kernels are
chosen when the program runs, while those of llama.cpp were chosen when it was compiled.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from turbopilot.app.doctor.facts import SpeedFacts
from turbopilot.app.resolve import resolve_gguf
from turbopilot.base.machine import usable_cores
from turbopilot.base.progress import Reporter
from turbopilot.bench import Setup, SpeedTask, measure
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.placement_wish import PlacementWish

_TASK: Final = SpeedTask(n_prompt=256, n_gen=64, repeats=3)
_SECONDS: Final = 0.25  # for each measurement without llama.cpp
_FAR: Final = 256 << 20  # bytes; more than the caches of processors for desktops and most servers
_SIDE: Final = 1024  # rows and columns of the matrices


def measure_speed() -> SpeedFacts:
    """Measure the bundled model on the processor, for about two seconds; it is converted first if needed."""
    path = resolve_gguf(None, Reporter())
    # Of the embeddings, a token reads one row, unless they are the output layer too.
    tensors = {t.name: t for t in read_gguf(path).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    n_bytes = sum(t.n_bytes for t in tensors.values())
    measured = measure(
        path, Setup(n_ctx=512, placement=PlacementWish(0)), speed=_TASK, memory=False
    )
    assert measured.prompt is not None
    assert measured.generation is not None
    threads = usable_cores()
    return SpeedFacts(
        prefill=measured.prompt.median, decode=measured.generation.median,
        weights=sum(t.n_weights for t in tensors.values()), weight_bytes=n_bytes, flops=matrix_flops(),
        near_bandwidth=copy_bandwidth(n_bytes, threads), bandwidth=copy_bandwidth(_FAR, threads), threads=threads,
    )  # fmt: skip


def matrix_flops(seconds: float = _SECONDS) -> float:
    """Return the operations/s of products of F32 matrices, on all threads of numpy's BLAS."""
    a = np.ones((_SIDE, _SIDE), np.float32)
    product, n = a @ a, 0  # not timed: starts the threads
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not n:
        np.matmul(a, a, out=product)
        n += 1
    return 2 * n * _SIDE**3 / passed if passed else 0.0


def copy_bandwidth(n_bytes: int, threads: int, seconds: float = _SECONDS) -> float:
    """Return the bytes/s that threads read and write together while each copies its part of `n_bytes`."""
    each = max(1, n_bytes // (2 * 8 * threads))

    def copy(_: int) -> float:
        source, target = np.ones(each), np.zeros(each)  # written, so that their pages exist
        n, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or not n:
            np.copyto(target, source)
            n += 1
        return 2 * 8 * each * n / passed if passed else 0.0

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(copy, range(threads)))
