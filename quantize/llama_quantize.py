"""The process that quantizes. Started by `quantize.quantizer`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from quantize.imatrix import read_imatrix
from turbopilot.llama.child import run_job, send
from turbopilot.llama.quantization import LlamaQuantizer


def main() -> None:
    """Plan with a dry run, send {"planned": true}, then quantize, unless only the plan is wanted.

    The job: {"source", "output", "fields", "overrides", "metadata": see LlamaQuantizer, "imatrix": path or null,
    "dry_run"}.
    """
    run_job(_quantize)


def _quantize(job: dict[str, Any]) -> None:
    means = read_imatrix(Path(job["imatrix"])).means() if job["imatrix"] else None
    quantizer = LlamaQuantizer(job["fields"], job["overrides"], job["metadata"], means)
    paths = job["source"], job["output"]
    if not quantizer.write(*paths, dry_run=True):
        sys.exit(1)
    send({"planned": True})
    if not job["dry_run"] and not quantizer.write(*paths, dry_run=False):
        sys.exit(1)


if __name__ == "__main__":
    main()
