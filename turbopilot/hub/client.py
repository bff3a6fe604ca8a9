"""Locks, retries and error conversion for the `huggingface_hub` client."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

from turbopilot.base.atomic import FULL
from turbopilot.base.errors import (
    DownloadError,
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    NotEnoughDisk,
    TurboPilotError,
)
from turbopilot.hub.safe_files import remove_planted

_TRIES = 5
_FIRST_WAIT = 1.0  # seconds; doubled each time
_LONGEST_WAIT = 300  # the Hub counts requests in windows of five minutes
_TEMPORARY = {408, 429, 500, 502, 503, 504}
_T = TypeVar("_T")
_log = logging.getLogger("turbopilot.hub")

sleep = time.sleep


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock that excludes other processes; the client's helper also works on file systems without locks.

    Args:
        lock: a file in an existing folder.
    """
    from huggingface_hub.utils import WeakFileLock

    remove_planted(lock)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(lock, timeout=0.1))
        except TimeoutError:
            _log.warning("another process is downloading the same files: waiting for it")
            held.enter_context(WeakFileLock(lock))
        yield


class Retries:
    """Retry policy and count of failures of one request; if `network`, connection failures are retried too."""

    def __init__(self, *, network: bool) -> None:
        self._network = network
        self.failed = 0

    def wait(self, e: Exception) -> None:
        """Wait after a failure as the server requests, else twice as long each time; raise `e` if it is final."""
        status = _status_of(e)
        if status not in _TEMPORARY and not (self._network and not status and _of_network(e)):
            raise e
        self.failed += 1
        if self.failed >= _TRIES:
            raise e
        seconds = _asked_to_wait(e) if status in (429, 503) else None
        if seconds is None:
            seconds = _FIRST_WAIT * 2 ** (self.failed - 1)
        if seconds > _LONGEST_WAIT:
            raise HubUnreachable(
                f"the Hub asks to wait for {seconds / 60:,.0f} minutes (status {status})",
                hint="run it again later; logged-in users may send more requests: hf auth login",
            ) from e
        _log.warning(
            "%s; trying again in %.0f s",
            f"the Hub returned status {status}" if status else "connection failed",
            seconds,
        )
        sleep(seconds)


def retried(call: Callable[[], _T]) -> _T:
    """Return the result of `call`, which is retried after temporary failures."""
    retries = Retries(network=False)
    while True:
        try:
            return call()
        except Exception as e:
            retries.wait(e)


def _asked_to_wait(e: BaseException) -> float | None:
    """Return the seconds that the server requests to wait; None if it requests none.

    Source: RFC 9110, Retry-After; the Hub's own header `ratelimit: "api";r=0;t=55`
    (https://huggingface.co/docs/hub/rate-limits).
    """
    headers = getattr(getattr(e, "response", None), "headers", {})
    text = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
    except (TypeError, ValueError, OverflowError, IndexError):
        pass  # not a date, or a date without a time zone
    window = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit") or "")
    return float(window[1]) if window else None


@contextmanager
def plain_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Convert errors of the client, the network and the disk to TurboPilotError."""
    try:
        yield
    except TurboPilotError:
        raise
    except Exception as e:
        if (plain := _plain(e, repo, revision)) is None:
            raise
        kind, what, hint = plain
        raise kind(f"{repo}: {what}", hint=hint) from e


def _status_of(e: BaseException) -> int:
    """Return the HTTP status of the client's exception, or 0."""
    response = getattr(e, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def _of_network(e: BaseException) -> bool:
    """Return whether a connection was refused, broken, or timed out.

    Classes are compared by name, because the client changed its HTTP library from httpx to httpx2 and may change it
    again.
    """
    kinds = {"NetworkError", "TimeoutException", "RemoteProtocolError"}
    return isinstance(e, ConnectionError) or bool(kinds & {c.__name__ for c in type(e).__mro__})


def _plain(
    e: BaseException, repo: str, revision: str | None
) -> tuple[type[TurboPilotError], str, str] | None:
    """Return the TurboPilotError class, message and hint for an exception; None if it is a bug."""
    from huggingface_hub import errors as hub

    if isinstance(e, hub.LocalEntryNotFoundError) and isinstance(e.__cause__, hub.HfHubHTTPError):
        e = e.__cause__
    status = _status_of(e)
    reason = str(e).strip().partition("\n")[0] or type(e).__name__
    logs_in = "hf auth login, or set HF_TOKEN"
    match e:
        case hub.GatedRepoError():
            how = f"accept the terms on https://huggingface.co/{repo}, then: {logs_in}"
            return ModelNotFound, "gated: you must accept its terms first", how
        case hub.RepositoryNotFoundError():
            how = f"check the spelling; if it is private: {logs_in}"
            return ModelNotFound, "no such repository (or a private one)", how
        case hub.RevisionNotFoundError():
            return (
                ModelNotFound, f"no revision {revision!r}", "give a branch, tag or commit of this repository"
            )  # fmt: skip
        case hub.DisabledRepoError():
            return ModelNotFound, "disabled by the Hub", "look for a copy by another owner"
        case hub.RemoteEntryNotFoundError():
            how = "if HF_ENDPOINT names a mirror, try without it; else run it again later"
            return HubUnreachable, f"the Hub lists a file that it does not have: {reason}", how
        case hub.HFValidationError():
            return InvalidInput, "not a repository name", "give owner/name"
    if status in (401, 403):
        said = str(getattr(e, "server_message", "") or e)
        if "Invalid credentials" in said or "invalid username or password" in said.lower():
            how = f"renew it on https://huggingface.co/settings/tokens, then: {logs_in}"
            return ModelNotFound, f"the Hub does not accept the token ({status})", how
        how = f"log in: {logs_in} to a token with read access"
        return ModelNotFound, f"the Hub denied access ({status})", how
    if status == 429:
        how = "run it again later to resume; logged-in users may send more requests: hf auth login"
        return HubUnreachable, "the Hub rejects requests for now (429, too many requests)", how
    unreachable = (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError)
    is_http = type(e).__module__.startswith("httpx")
    if status or is_http or _of_network(e) or isinstance(e, unreachable):
        how = (
            "check the network, HF_ENDPOINT, HTTPS_PROXY and HF_HUB_OFFLINE; run it again to resume"
        )
        return HubUnreachable, f"the Hub did not answer: {reason}", how
    if isinstance(e, OSError) and e.errno in FULL:
        how = "free some space and run it again to resume, or choose another folder with --to"
        return NotEnoughDisk, FULL[e.errno], how
    if isinstance(e, OSError):
        return DownloadError, str(e), "run it again to resume"
    return None
