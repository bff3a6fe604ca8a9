"""Counts of completions that clients report as shown, accepted and dismissed."""

from __future__ import annotations

import threading
from typing import Final

from serve.api.client_report import REPORTS, Report
from serve.api.status import AcceptedShare

MOST_CLIENTS: Final = 50
OTHER: Final = "other"  # clients beyond MOST_CLIENTS, together


class ClientReports:
    """Counts by client. Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Report, int]] = {}

    def count(self, client: str, report: Report) -> None:
        """Count a report of a client, which is the name in its User-Agent header."""
        with self._lock:
            if client not in self._counts and len(self._counts) >= MOST_CLIENTS:
                client = OTHER
            counts = self._counts.setdefault(client, dict.fromkeys(REPORTS, 0))
            counts[report] += 1

    @property
    def shares(self) -> list[AcceptedShare]:
        """The counts, in the order in which clients first reported."""
        with self._lock:
            return [
                {
                    "client": client,
                    "shown": counts["shown"],
                    "accepted": counts["accepted"],
                    "dismissed": counts["dismissed"],
                }
                for client, counts in self._counts.items()
            ]
