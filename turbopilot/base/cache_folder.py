"""The folder of cached artifacts, which can be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of cached artifacts: $TURBOPILOT_CACHE, or one in the user's cache."""
    if explicit := os.environ.get("TURBOPILOT_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    )
    return Path(base or Path.home() / ".cache") / "turbopilot"
