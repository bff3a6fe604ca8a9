"""How one try of a request at an upstream ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from serve.request import Finished
from serve.upstream.dialect import error_text
from serve.upstream.health import Outcome
from turbopilot.base.errors import InvalidRequest, Overloaded, TurboPilotError, UpstreamFailed

_BUSY: Final = (429, 503)
_MISCONFIGURED: Final = (401, 403, 404)  # another upstream may accept the same request


@dataclass(frozen=True, slots=True)
class TryEnd:
    """The end of a try: the request's last event, or an error, after which it may be tried elsewhere.

    Attributes:
        waited: seconds to the first text; to the end if there was none.
    """

    outcome: Outcome
    waited: float
    last: Finished | None = None
    error: TurboPilotError | None = None


def failed(name: str, waited: float, reason: str) -> TryEnd:
    """Return the end of a try that an upstream did not answer, or not as its engine does."""
    error = UpstreamFailed(f"{name} failed: {reason}", hint="try again")
    return TryEnd(Outcome.FAILED, waited, error=error)


def refused(name: str, waited: float, status: int, answer: bytes) -> TryEnd:
    """Return the end of a try that was answered with an error status."""
    try:
        found = json.loads(answer)
        message = error_text(found.get("error") or found.get("detail") or found)
    except (ValueError, AttributeError):
        message = answer[:200].decode(errors="replace")
    if status in _BUSY:
        return TryEnd(Outcome.BUSY, waited, error=Overloaded(f"{name} is busy: {message}"))
    if 400 <= status < 500 and status not in _MISCONFIGURED:
        rejected = InvalidRequest(f"{name} rejected the request: {message}")
        return TryEnd(Outcome.REJECTED, waited, error=rejected)
    return failed(name, waited, f"status {status}: {message}")
