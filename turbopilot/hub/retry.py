"""What fails for a moment is tried again: how often, and after how long."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

from turbopilot.base.errors import HubUnreachable
from turbopilot.hub.errors import of_network, status_of

_TRIES = 5
_FIRST_WAIT = 1.0  # seconds; doubled each time
_LONGEST_WAIT = 300  # the Hub counts requests in windows of five minutes
_FOR_A_MOMENT = {408, 429, 500, 502, 503, 504}
_T = TypeVar("_T")
_log = logging.getLogger("turbopilot.hub")

sleep = time.sleep


class Retries:
    """Counts the attempts at one thing.

    Args:
        network: whether a connection that fails is tried again too, and not only a server that says so.
    """

    def __init__(self, *, network: bool) -> None:
        self._network = network
        self._failed = 0

    def advanced(self) -> None:
        """Something came: the count begins anew."""
        self._failed = 0

    def wait(self, e: Exception) -> None:
        """Wait after a failure, as long as the server asks or a little longer each time.

        Raises:
            HubUnreachable: the server asks for a longer wait than anybody would sit through.
            Exception: `e` itself, where trying again is of no use or has been done often enough.
        """
        status = status_of(e)
        if status not in _FOR_A_MOMENT and not (self._network and not status and of_network(e)):
            raise e
        self._failed += 1
        if self._failed >= _TRIES:
            raise e
        seconds = asked_to_wait(e) if status in (429, 503) else None
        if seconds is None:
            seconds = _FIRST_WAIT * 2 ** (self._failed - 1)
        if seconds > _LONGEST_WAIT:
            raise HubUnreachable(
                f"the hub asks to wait for {seconds / 60:,.0f} minutes (status {status})",
                hint="run it again then; who is logged in may ask more often: hf auth login",
            ) from e
        _log.warning(
            "%s; trying again in %.0f s",
            f"the hub answers {status}" if status else "no connection",
            seconds,
        )
        sleep(seconds)


def retried(call: Callable[[], _T], *, network: bool = False) -> _T:
    """The result of `call`, which is called again after failures that pass."""
    retries = Retries(network=network)
    while True:
        try:
            return call()
        except Exception as e:
            retries.wait(e)


def asked_to_wait(e: BaseException) -> float | None:
    """For how many seconds the server asks to be left alone, None where it does not say.

    Source: RFC 9110, Retry-After; the Hub's own `ratelimit: "api";r=0;t=55`
    (https://huggingface.co/docs/hub/rate-limits).
    """
    headers = getattr(getattr(e, "response", None), "headers", {})
    text = (headers.get("Retry-After") or "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError):
        pass  # no date, or one without a zone
    window = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit") or "")
    return float(window[1]) if window else None
