"""Speed of the bundled model, and what it is compared with: this processor without llama.cpp, in the same seconds.

No figure of another machine is used. One thread's prefill is compared with numpy's product of F32 matrices on one
thread, whose kernel is chosen when the program runs, while those of llama.cpp were chosen when it was compiled. All
threads are compared with one thread: the cost of their waiting for each other depends on their number, so it cannot be
judged otherwise. The time in which the system let the threads run shows what other programs and virtual machines took.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from turbopilot.app.doctor.facts import SpeedFacts
from turbopilot.app.resolve import resolve_gguf
from turbopilot.base.machine import usable_cores
from turbopilot.base.progress import Reporter
from turbopilot.bench import Setup, SpeedTask, measure
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import run_child
from turbopilot.llama.placement_wish import PlacementWish

_TASK: Final = SpeedTask(n_prompt=256, n_gen=64, repeats=3)
_ALONE: Final = SpeedTask(n_prompt=256, n_gen=0, repeats=2)
_N_CTX: Final = 512
SECONDS: Final = 0.25  # for each measurement without llama.cpp
_FAR: Final = 256 << 20  # bytes; more than the caches of processors for desktops and most servers
# Variables of OpenBLAS, MKL, BLIS and Accelerate. They are read when numpy is imported, so a child is needed.
_ONE_THREAD: Final = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CopySpeed:
    """Bytes/s that threads read and write, and the share of the time in which the system let them run."""

    bandwidth: float
    processor_time: float


def measure_speed() -> SpeedFacts:
    """Measure the bundled model on the processor, for about five seconds; it is converted first if needed."""
    path, threads = resolve_gguf(None, Reporter()), usable_cores()
    # Of the embeddings, a token reads one row, unless they are the output layer too.
    tensors = {t.name: t for t in read_gguf(path).tensors}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    measured = measure(
        path, Setup(n_ctx=_N_CTX, placement=PlacementWish(0)), speed=_TASK, memory=False
    )
    one = Setup(n_ctx=_N_CTX, placement=PlacementWish(0), n_threads=1)
    alone = measure(path, one, speed=_ALONE, memory=False)
    assert measured.prompt is not None
    assert measured.generation is not None
    assert alone.prompt is not None
    product: dict[str, Any] = {}
    run_child(
        "turbopilot.app.doctor.product_child", {}, on_message=product.update, timeout=30, environment=_ONE_THREAD
    )  # fmt: skip
    copied = copy_speed(_FAR, threads)
    return SpeedFacts(
        prefill=measured.prompt.median, decode=measured.generation.median, prefill_alone=alone.prompt.median,
        weights=sum(t.n_weights for t in tensors.values()), flops_alone=product["flops"], blas=product["blas"],
        bandwidth=copied.bandwidth, processor_time=copied.processor_time, threads=threads,
    )  # fmt: skip


def copy_speed(n_bytes: int, threads: int, seconds: float = SECONDS) -> CopySpeed:
    """Let each thread copy its part of `n_bytes` again and again."""
    each = max(1, n_bytes // (2 * 8 * threads))

    def copy(_: int) -> tuple[float, float]:
        source, target = np.ones(each), np.zeros(each)  # written, so that their pages exist
        n, began, used = 0, time.perf_counter(), time.thread_time()
        while (passed := time.perf_counter() - began) < seconds or not n:
            np.copyto(target, source)
            n += 1
        return 2 * 8 * each * n / passed, (time.thread_time() - used) / passed

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(copy, range(threads)))
    return CopySpeed(sum(speed for speed, _ in found), sum(share for _, share in found) / threads)
