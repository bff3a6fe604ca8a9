"""The process that gathers, with a fault in it: started by a test in place of `quantize.imatrix.llama_gather`."""

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
    else:  # the name lies where another version of ggml has something else
        GgmlTensor.name = GgmlTensor.padding  # type: ignore[assignment]
    llama_gather.main()
