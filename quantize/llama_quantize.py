"""Child process that quantizes a file; see `quantize.quantizer`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quantize.imatrix import read_imatrix
from turbopilot.llama.child import run_job
from turbopilot.llama.quantization import quantize


def main() -> None:
    """Run the job {"source", "output", "imatrix": path or null} plus the other arguments of `quantize`."""
    run_job(_quantize)


def _quantize(job: dict[str, Any]) -> None:
    means = read_imatrix(Path(job["imatrix"])).means() if job["imatrix"] else None
    paths = job["source"], job["output"]
    if not quantize(paths, job["fields"], job["overrides"], job["metadata"], means):
        sys.exit(1)


if __name__ == "__main__":
    main()
