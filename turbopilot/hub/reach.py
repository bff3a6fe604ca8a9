"""Reachability of the Hub, with the endpoint, the proxy and the certificates that downloads use."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from turbopilot.base.errors import HubUnreachable


def endpoint() -> str:
    """Return the URL of the Hub: HF_ENDPOINT, or the default."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def proxy_of(url: str) -> str:
    """Return the proxy that the environment sets for a URL, without a password; "" if there is none."""
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    return f"{urlsplit(proxy).scheme}://{proxy.rpartition('@')[2].rpartition('//')[2]}"


def request_status(url: str, *, seconds: float) -> int:
    """Return the status of a HEAD request to the Hub.

    Raises:
        HubUnreachable: there was no response within `seconds`.
    """
    from huggingface_hub import get_session

    try:
        return int(get_session().head(url, timeout=seconds).status_code)
    except Exception as e:
        # The client's exceptions depend on its HTTP library, which has changed before; see `client`.
        reason = str(e).strip().partition(os.linesep)[0] or type(e).__name__
        raise HubUnreachable(reason) from e
