"""Names of the headers of completion requests that only TurboPilot reads."""

from __future__ import annotations

from typing import Final

SESSION_HEADER: Final = "X-TurboPilot-Session"
DEADLINE_HEADER: Final = "X-TurboPilot-Deadline-Ms"
PRIORITY_HEADER: Final = "X-TurboPilot-Priority"
