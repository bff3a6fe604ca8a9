"""Child process that computes attention on a device; see `turbopilot.llama.device_trial`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import run_job
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.fitting import fitted
from turbopilot.llama.flash_attention import AUTO, OFF, ON, PLAIN
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.model import LlamaModel
from turbopilot.llama.placement_wish import PlacementWish

_LAYERS: Final = (
    2  # the output head and the last layer: little to load, and all kinds of operations
)
_N_CTX: Final = 256
# Tokens of each batch: backends have programs for large batches, for a few rows, and for one.
_BATCHES: Final = (40, 4, 1)


def main() -> None:
    """Run the job {"model": path, "device": name, "cache_type": lower case, "flash_attention": bool or None}."""
    run_job(_work)


def _work(job: dict[str, Any]) -> None:
    wanted, cache_type = job["flash_attention"], job["cache_type"]
    if cache_type not in PLAIN:
        wanted = True
    header = read_gguf(Path(job["model"]))
    wish = PlacementWish(n_gpu_layers=_LAYERS, names=(job["device"],))
    need = ContextNeed(_N_CTX, KvLayout(), cache_type, has_scores=True)
    model = LlamaModel(header, fitted(header, need, wish))
    kind = {None: AUTO, True: ON, False: OFF}[wanted]
    context = LlamaContext(
        model, ContextParameters(_N_CTX, n_outputs=1, cache_type=cache_type, flash_attention=kind)
    )
    at = 0
    for n in _BATCHES:
        last = at + n - 1
        context.read([i % model.n_vocab for i in range(at, at + n)], at, range(last, last + 1))
        at += n


if __name__ == "__main__":
    main()
