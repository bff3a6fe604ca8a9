"""A page in the browser, watched for errors, and how it is looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request


@dataclass(frozen=True, slots=True)
class Screen:
    """Size of the window in CSS pixels, whether the system's colours are dark, and device pixels for each CSS pixel."""

    width: int = 1200
    height: int = 800
    dark: bool = False
    scale: float = 1.0


LIGHT = Screen()
DARK = Screen(dark=True)
NARROW = Screen(390, 844)
SCREENS = {"light": LIGHT, "dark": DARK, "narrow": NARROW}


class Watch:
    """Collects what no page may do: errors in the console, exceptions, and requests to another host.

    Chromium reports violations of the Content-Security-Policy, and answers with an error status, in the console.
    """

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._allowed: list[re.Pattern[str]] = []

    def allow(self, pattern: str) -> None:
        """Accept problems that this regular expression finds, such as `status of 401` for a key that is asked for."""
        self._allowed.append(re.compile(pattern))

    def follow(self, page: Page, origin: str) -> None:
        """Collect the problems of a page whose server is at `origin`."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._problems.append(f"exception: {error}"))
        page.on("request", lambda request: self._request(request, origin))

    @property
    def problems(self) -> list[str]:
        """All problems so far that are not allowed."""
        return [p for p in self._problems if not any(a.search(p) for a in self._allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._problems.append(f"console: {message.text} ({message.location.get('url')})")

    def _request(self, request: Request, origin: str) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and f"{url.scheme}://{url.netloc}" != origin:
            self._problems.append(f"request to another host: {request.url}")
