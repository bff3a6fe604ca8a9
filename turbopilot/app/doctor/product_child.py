"""Child process that times numpy's product of matrices; the number of its threads is set by the environment."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from turbopilot.app.doctor.speed import SECONDS
from turbopilot.llama.child import run_job, send

_SIDE: Final = 1024  # rows and columns of the matrices


def main() -> None:
    """Send {"flops", "blas"}: operations/s of the product of F32 matrices, and the library that computes it."""
    run_job(lambda _job: send({"flops": product_flops(), "blas": blas_name()}))


def product_flops(seconds: float = SECONDS) -> float:
    """Return the operations/s of products of F32 matrices."""
    a = np.ones((_SIDE, _SIDE), np.float32)
    product, n = a @ a, 0  # not timed: starts threads
    began = time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds or not n:
        np.matmul(a, a, out=product)
        n += 1
    return 2 * n * _SIDE**3 / passed


def blas_name() -> str:
    """Return the name of numpy's BLAS, such as "scipy-openblas" or "accelerate"; "" if numpy does not know it."""
    config: Any = np.show_config(mode="dicts")
    return str(config.get("Build Dependencies", {}).get("blas", {}).get("name", ""))


if __name__ == "__main__":
    main()
