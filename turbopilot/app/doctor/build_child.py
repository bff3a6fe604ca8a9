"""Child process that loads llama.cpp and describes it: a broken build or driver can crash or hang there."""

from __future__ import annotations

from typing import Any

from turbopilot.base.backends import built_backends
from turbopilot.llama.child import run_job, send


def main() -> None:
    """Send {"version", "system_info", "backends", "devices", "built"}."""
    run_job(_describe)


def _describe(_job: dict[str, Any]) -> None:
    # Imported here, so that a library that cannot be loaded is reported as an error.
    from turbopilot.llama.devices import backends, gpu_devices
    from turbopilot.llama.library import VERSION, llama_cpp, start_backend

    start_backend()
    send(
        {
            "version": VERSION,
            "system_info": llama_cpp.llama_print_system_info().decode("utf-8", "replace"),
            "backends": backends(),
            "devices": [f"{d}, {d.free / 1e9:.1f} GB free" for d in gpu_devices()],
            "built": sorted(built_backends()),
        }
    )


if __name__ == "__main__":
    main()
