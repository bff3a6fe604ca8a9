"""The Chromium of this machine, for tests in a headless browser."""

from __future__ import annotations

import shutil
from typing import Final

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def installed_browser() -> str | None:
    """Return the path of the first of `BROWSERS` in PATH, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)
