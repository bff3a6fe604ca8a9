"""What a GGUF file costs and how far it is from another: speed, memory and KL divergence, measured on this machine.

    measured = measure(Path("model-q4_0.gguf"), Setup(), speed=SpeedTask())
    reference = keep_reference(Path("model-f16.gguf"), text, Path("model.logits"))
    measured.memory.peak, divergence(Path("model-q4_0.gguf"), reference).mean_kl

Knows the leaves and itself only. llama.cpp runs in processes of their own, loaded as `serve` loads it: `llama_runner`
is the one module that imports it.
"""

from turbopilot.bench.buffers import Buffers
from turbopilot.bench.measurement import (
    POSITIONS,
    WINDOW,
    Cell,
    divergence,
    keep_reference,
    measure,
    measure_in_turn,
    planned,
)
from turbopilot.bench.results import Divergence, Measured, Memory, Rate
from turbopilot.bench.setup import Setup, SpeedTask
from turbopilot.bench.store import Reference, open_reference
from turbopilot.render.bench_plot import Row, drawn

__all__ = [
    "POSITIONS", "WINDOW", "Buffers", "Cell", "Divergence", "Measured", "Memory", "Rate", "Reference",
    "Row", "Setup", "SpeedTask", "divergence", "drawn", "keep_reference", "measure", "measure_in_turn",
    "open_reference", "planned",
]  # fmt: skip
