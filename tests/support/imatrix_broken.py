"""Faulty process for tests, which replaces `quantize.imatrix.llama_gather`."""

from __future__ import annotations

import os

from quantize.imatrix import llama_gather
from quantize.imatrix.collect import Collector
from turbopilot.llama.ggml_tensor import GgmlTensor


def broken(self: Collector, address: int) -> None:
    raise RuntimeError("broken on purpose")


if __name__ == "__main__":
    if os.environ["FAULT"] == "exception":
        Collector.take = broken  # type: ignore[method-assign]
    else:  # read the name at a wrong offset, as with another version of ggml
        GgmlTensor.name = GgmlTensor.padding  # type: ignore[assignment]
    llama_gather.main()
