"""The process that quantizes: the only module here that imports llama_cpp for it. Started by `quantize.run`."""

from __future__ import annotations

import ctypes
import os

from turbopilot.llama_child import leave, listen, read_job


def main() -> None:
    """Read {"source", "output", "ftype", "threads"}; leave with llama.cpp's code."""
    job = read_job()
    import llama_cpp

    listen(llama_cpp)
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = job["threads"]
    code = llama_cpp.llama_model_quantize(
        os.fsencode(job["source"]), os.fsencode(job["output"]), ctypes.byref(params)
    )
    leave(0 if code == 0 else 1)


if __name__ == "__main__":
    main()
