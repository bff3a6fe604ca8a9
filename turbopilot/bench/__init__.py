"""Speed, memory and KL divergence of GGUF files, measured on this machine.

    measured = measure(Path("model-q4_0.gguf"), Setup(), speed=SpeedTask())
    reference = keep_reference(Path("model-f16.gguf"), text, Path("model.logits"))
    measured.memory.peak, divergence(Path("model-q4_0.gguf"), reference).mean_kl

Each measurement runs llama.cpp in a child process and loads the file with the same parameters as `serve`.
"""

from turbopilot.bench.measurement import (
    POSITIONS,
    WINDOW,
    Cell,
    context_of,
    divergence,
    keep_reference,
    measure,
    measure_in_turn,
    planned,
)
from turbopilot.bench.results import Divergence, Measured, Memory, Rate
from turbopilot.bench.setup import Setup, SpeedTask
from turbopilot.bench.windows import Reference

__all__ = [
    "POSITIONS", "WINDOW", "Cell", "Divergence", "Measured", "Memory", "Rate", "Reference", "Setup", "SpeedTask",
    "context_of", "divergence", "keep_reference", "measure", "measure_in_turn", "planned",
]  # fmt: skip
