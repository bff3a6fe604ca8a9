"""Child process that computes one token of a model in a sandbox; see `turbopilot.llama.trial`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from turbopilot.base.errors import CorruptModel, ServeError
from turbopilot.base.machine import usable_cores
from turbopilot.base.sandbox import restrict
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_job
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.library import start_backend
from turbopilot.llama.model import LlamaModel, ModelParameters

_MOST_THREADS: Final = 4  # which read memory about as fast as all cores
_N_CTX: Final = 256  # the least that llama.cpp takes
# Words, blanks, digits, punctuation, other scripts and control characters.
_TEXT: Final = (
    'def naïve(x1):\n\tif x1 >= 42: return "✓ мир 世界 🙂"  # 1e-5\r\n\x01\x7f <s> </s>\n'
)


def main() -> None:
    """Run the job {"model": path, "adapters": [path], "memory": bytes, "seconds": CPU time}."""
    run_job(_work)


def _work(job: dict[str, Any]) -> None:
    header = read_gguf(Path(job["model"]))
    adapters = [read_gguf(Path(path)) for path in job["adapters"]]
    start_backend()
    restrict(memory=job["memory"], seconds=job["seconds"])
    compute_token(header, adapters)


def compute_token(header: GgufHeader, adapters: Sequence[GgufHeader]) -> None:
    """Load a model on the CPU, tokenize a text, and compute its first token with all adapters.

    The weights are not repacked, so that each page of the file is read once.
    """
    model = LlamaModel(header, ModelParameters(repack=False, is_trial=True))
    model.load_adapters(adapters)
    ids = model.tokenize(_TEXT, parse_special=True)
    first = model.first_token
    token = first if first is not None else next(iter(ids), 0)
    parameters = ContextParameters(
        _N_CTX, n_outputs=1, n_threads=min(usable_cores(), _MOST_THREADS), offload=False
    )
    try:
        context = LlamaContext(model, parameters)
        context.set_adapters(dict.fromkeys(model.adapters, 1.0))
        context.read([token], 0, range(1))
    except ServeError as e:
        raise CorruptModel(
            f"{header.path}: the model cannot be run: {e.message}",
            hint="convert or download it again",
        ) from None


if __name__ == "__main__":
    main()
