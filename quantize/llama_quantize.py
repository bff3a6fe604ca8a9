"""The process that quantizes: calls llama.cpp and passes on its words as JSON lines on stdout.

A process of its own because llama.cpp cannot be interrupted from Python while it works, and because it
aborts on some broken files. Started by `quantize.run`; the only module here that imports llama_cpp.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from typing import Any


def main() -> None:
    """Read {"source", "output", "ftype", "threads"} from stdin; leave with llama.cpp's code."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, user_data: Any) -> None:
        sys.stdout.write(json.dumps([level, text.decode("utf-8", "replace")]) + "\n")
        sys.stdout.flush()

    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = job["threads"]
    code = llama_cpp.llama_model_quantize(
        os.fsencode(job["source"]), os.fsencode(job["output"]), ctypes.byref(params)
    )
    sys.stdout.flush()
    os._exit(0 if code == 0 else 1)  # llama.cpp has nothing left that wants tidying


def _leave_with_parent() -> None:
    """The parent holds stdin open; when it dies, even by kill -9, reading ends and so do we."""
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
