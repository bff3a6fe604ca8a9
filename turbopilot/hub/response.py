"""HTTP requests to the Hub whose responses are limited in size, also for redirects and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from turbopilot.base.errors import HubUnreachable
from turbopilot.base.version import __version__

_MOST_REDIRECTS = 10
# Decoders of gzip and deflate expand a block of 64 KiB to at most 66 MB; those of other encodings have no such limit.
_ENCODINGS = ("", "identity", "gzip", "deflate")


@contextmanager
def opened(
    url: str, *, headers: dict[str, str], timeout: float, method: str = "GET", blobs: bool = False
) -> Iterator[Any]:
    """Send a request and yield the httpx response, whose body was not read yet.

    The token is sent to the Hub at `url`, but not to the hosts that it redirects to. HEAD requests do not leave the
    Hub, so the response may be a redirect. Bodies of redirects and errors are never read.

    Args:
        url: address at the Hub.
        headers: in addition to the token.
        timeout: seconds to wait for a connection and for each block.
        method: GET or HEAD.
        blobs: whether a listing shall have sizes and checksums.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    request = session.build_request(
        method, url, headers={**_own_headers(), **headers}, timeout=timeout,
        params={"blobs": True} if blobs else None,
    )  # fmt: skip
    host = request.url.host
    for _ in range(_MOST_REDIRECTS):
        response = session.send(request, stream=True, follow_redirects=False)
        try:
            following = response.next_request
            if following and (method == "GET" or following.url.host == host):
                request = following
                continue
            if not following:
                _check(response)
            yield response
            return
        finally:
            response.close()
    raise HubUnreachable(
        f"{url}: more than {_MOST_REDIRECTS} redirects",
        hint="check HF_ENDPOINT, and whether the network requires a login first",
    )


def _own_headers() -> dict[str, str]:
    """Return the token and the name of this program.

    The client's `build_hf_headers` also asks the server for a list of AI agents, which it does not check and keeps for
    a day; a malformed list makes each later call of any program fail.
    """
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    named = {"User-Agent": f"turbopilot/{__version__}"}
    return {**named, "Authorization": f"Bearer {token}"} if token else named


def _check(response: Any) -> None:
    """Raise the client's exception for an HTTP error, and HubUnreachable for an unexpected response."""
    from huggingface_hub.utils import hf_raise_for_status

    if not response.is_success:
        kept = [(k, v) for k, v in response.headers.raw if not k.lower().startswith(b"content-")]
        hf_raise_for_status(
            type(response)(response.status_code, headers=kept, request=response.request)
        )
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if response.status_code not in (200, 206) or encoding not in _ENCODINGS:
        raise HubUnreachable(
            f"{response.url}: unexpected response (status {response.status_code}, encoding {encoding!r:.40})",
            hint="if HF_ENDPOINT names a mirror, try without it",
        )


def stated_metadata(url: str, timeout: float) -> tuple[int, str]:
    """Return a file's size, 0 if unknown, and its ETag, which is the SHA-256 of a large file on the Hub."""
    headers = {"Accept-Encoding": "identity"}
    with opened(url, headers=headers, timeout=timeout, method="HEAD") as response:
        given = response.headers
        size = given.get("X-Linked-Size") or (
            "" if response.next_request else given.get("Content-Length", "")
        )
        etag = given.get("X-Linked-Etag") or given.get("ETag", "")
    return int(size) if re.fullmatch("[0-9]{1,18}", size) else 0, etag.removeprefix("W/").strip('"')
