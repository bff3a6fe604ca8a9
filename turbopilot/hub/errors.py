"""The hub client's many exceptions as our few, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from turbopilot.base.atomic import FULL
from turbopilot.base.errors import (
    DownloadError,
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    NotEnoughDisk,
    TurboPilotError,
)


@contextmanager
def plain_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Raise our errors for those of the client, of the network and of the disk while the body runs."""
    try:
        yield
    except TurboPilotError:
        raise
    except Exception as e:
        if (plain := _plain(e, repo, revision)) is None:
            raise
        raise plain from e


def status_of(e: BaseException) -> int:
    """The HTTP status that the client's exception stands for, 0 for none."""
    response = getattr(e, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def of_network(e: BaseException) -> bool:
    """Whether a connection was refused, broke, or nobody answered in time.

    By name, as the client has changed its HTTP library from httpx to httpx2 and may do so again.
    """
    kinds = {"NetworkError", "TimeoutException", "RemoteProtocolError"}
    return isinstance(e, ConnectionError) or bool(kinds & {c.__name__ for c in type(e).__mro__})


def _plain(e: Exception, repo: str, revision: str | None) -> TurboPilotError | None:
    from huggingface_hub import errors as hub

    if isinstance(e, hub.LocalEntryNotFoundError) and isinstance(e.__cause__, hub.HfHubHTTPError):
        e = e.__cause__
    if isinstance(e, hub.GatedRepoError):
        return ModelNotFound(
            f"{repo}: its owner asks for an agreement first",
            hint=f"agree on https://huggingface.co/{repo}, then: hf auth login, or set HF_TOKEN",
        )
    if isinstance(e, hub.RepositoryNotFoundError):
        return ModelNotFound(
            f"{repo}: no such repository (or a private one)",
            hint="check the spelling; if it is private: hf auth login, or set HF_TOKEN",
        )
    if isinstance(e, hub.RevisionNotFoundError):
        return ModelNotFound(
            f"{repo}: no revision {revision!r}", hint="give a branch, tag or commit of it"
        )
    if isinstance(e, hub.DisabledRepoError):
        return ModelNotFound(
            f"{repo}: the hub has closed it", hint="look for a copy of another owner"
        )
    if isinstance(e, hub.RemoteEntryNotFoundError):
        return HubUnreachable(
            f"{repo}: the hub lists a file that it does not have: {_first_line(e)}",
            hint="if HF_ENDPOINT names a mirror, try without it; else run it again later",
        )
    if isinstance(e, hub.HFValidationError):
        return InvalidInput(f"{repo}: not a repository's name", hint="give owner/name")
    status = status_of(e)
    if status in (401, 403):
        return _refused(repo, status, str(getattr(e, "server_message", "") or e))
    if status == 429:
        return HubUnreachable(
            f"{repo}: the hub answers no more for now (429, too many requests)",
            hint="run it again later, it goes on where it stopped; who is logged in may ask more often: hf auth login",
        )
    if (
        status
        or of_network(e)
        or isinstance(e, (hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError))
        or type(e).__module__.startswith("httpx")
    ):
        return HubUnreachable(
            f"{repo}: the hub did not answer: {_first_line(e)}",
            hint="check the network, HF_ENDPOINT, HTTPS_PROXY and HF_HUB_OFFLINE; run it again to resume",
        )
    if isinstance(e, OSError) and e.errno in FULL:
        return NotEnoughDisk(
            f"{repo}: {FULL[e.errno]}",
            hint="free some space and run it again (what came stays), or choose another folder with --to",
        )
    if isinstance(e, OSError):
        return DownloadError(f"{repo}: {e}", hint="run it again to resume")
    return None


def _refused(repo: str, status: int, said: str) -> ModelNotFound:
    if "Invalid credentials" in said or "invalid username or password" in said.lower():
        return ModelNotFound(
            f"{repo}: the hub does not know the token ({status})",
            hint="renew it on https://huggingface.co/settings/tokens, then: hf auth login, or set HF_TOKEN",
        )
    return ModelNotFound(
        f"{repo}: the hub refuses ({status})",
        hint="log in: hf auth login, or set HF_TOKEN to a token that may read it",
    )


def _first_line(e: Exception) -> str:
    return next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)
