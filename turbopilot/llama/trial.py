"""Trial of a model file: a first token is computed in a sandboxed child before this process opens the file.

`check_model` finds the faults that are known. llama.cpp has thousands of assertions, each of which ends the process,
and a file can also hang it or take all memory; there, only a child is lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Final

from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import CorruptModel
from turbopilot.base.file_digest import remembered
from turbopilot.base.quoting import shortened
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.child import ChildFailed, run_child

SKIP_VARIABLE: Final = "TURBOPILOT_SKIP_TRIAL"
"""Environment variable that switches trials off if it is "1": for files that are known to be good where the cache
folder cannot be written, so that each start would try them again."""
# Drivers take seconds to start, and memory: hide CUDA's, ROCm's and Vulkan's GPUs.
_NO_GPUS: Final = dict.fromkeys(
    ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"), ""
)
_SECONDS: Final = 30  # of CPU time, for a start on a slow machine
_BYTES_PER_SECOND: Final = 20e6  # of CPU time beyond that: one slow core with the slowest type
_PATIENCE: Final = 10  # real time for each second of CPU time, on a busy machine or a slow disk
# Bytes of data after the start: the KV cache of 256 tokens (0.2 GB for 16 billion weights without grouped heads), the
# activations of a batch, and the vocabulary. Weights are mapped from the file, and not counted.
_MEMORY: Final = 2 << 30
_MEMORY_OF_HEADER: Final = 16  # bytes for each byte of the vocabulary and other metadata


def try_model(header: GgufHeader, adapters: Sequence[GgufHeader] = ()) -> None:
    """Compute a token of a model, with all `adapters`, in a sandboxed child, unless this llama.cpp has done so.

    A success is stored in the cache folder, and holds until the file system reports a change of the file. Only the CPU
    is used. The child is the module `trial_child`; see `turbopilot.base.sandbox` for what it may do.

    Raises:
        CorruptModel: llama.cpp refuses a file, or the child was aborted, crashed, or exceeded its time or memory.
        ServeError: the model does not generate text.
    """
    if os.environ.get(SKIP_VARIABLE) == "1":
        return
    from turbopilot.llama.library import VERSION

    name = f"computes a token with llama-cpp-python {VERSION}"

    def work() -> Mapping[str, str]:
        _run(header, adapters)
        return {name: hashlib.sha256(name.encode()).hexdigest()}  # the cache stores digests

    files = [file for h in (*adapters, header) for file in h.files]
    remembered(cache_folder(), files, (name,), work)


def _run(header: GgufHeader, adapters: Sequence[GgufHeader]) -> None:
    n_adapters = sum(a.file_size for a in adapters)  # bytes, which are read and not mapped
    seconds = int(_SECONDS + (header.file_size + n_adapters) / _BYTES_PER_SECOND)
    # The header ends where the first tensor begins.
    n_header = min((t.offset for t in header.tensors), default=0)
    job = {
        "model": str(header.path), "adapters": [str(a.path) for a in adapters],
        "memory": _MEMORY + _MEMORY_OF_HEADER * n_header + 2 * n_adapters, "seconds": seconds,
    }  # fmt: skip
    try:
        run_child(
            "turbopilot.llama.trial_child", job, timeout=_PATIENCE * seconds, environment=_NO_GPUS
        )
    except ChildFailed as e:
        named = ", ".join(str(a.path) for a in adapters)
        what = (
            f"{named}: cannot be applied" if adapters else f"{header.path}: the model cannot be run"
        )
        raise CorruptModel(
            f"{what}: llama.cpp's process {_how(e, seconds)}",
            hint="the file is damaged or malicious: convert or download it again. "
            "If you trust its source, report it, and try a newer llama-cpp-python",
        ) from None


def _how(e: ChildFailed, seconds: int) -> str:
    import signal

    last = next((line for line in e.last_words.splitlines() if "GGML_ASSERT" in line), "")
    last = last or e.last_words.strip().rpartition("\n")[2]
    last = last.rpartition("/vendor/llama.cpp/")[2]  # without the folder in which it was built
    if e.code == -getattr(signal, "SIGXCPU", 24) or "it took more than" in e.last_words:
        return f"computed no token in {seconds:,} s of CPU time or {_PATIENCE * seconds:,} s of real time"
    how = f"was ended by signal {-e.code}" if e.code < 0 else "failed"
    return f"{how}: {shortened(last, 300)}" if last else how
