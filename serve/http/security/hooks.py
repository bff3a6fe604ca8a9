"""Access checks before each request of the Flask application."""

from __future__ import annotations

from functools import partial

from flask import Flask, Response, g, request

from serve.api.endpoints import ENDPOINTS
from serve.http.security.hosts import Hosts
from serve.http.security.keys import ApiKeys
from serve.http.security.origins import Origins
from serve.security_options import SecurityOptions

# Views that need no API key. Compared by view, not by path, so that unusual spellings of a path cannot bypass the
# check. Tabby's /v1/health is not among them: the agent learns from its status 401 that a key is needed.
OPEN = {e.name for e in ENDPOINTS if e.is_open}


def header(name: str) -> str:
    """Return a header of the current request, or ""."""
    return request.headers.get(name, "")


def register(app: Flask, options: SecurityOptions) -> None:
    """Add a hook that refuses requests with a wrong host name, a wrong origin, or no valid key, in this order.

    The hook sets `g.api_key` to the request's key.
    """
    hosts = Hosts(options.host, options.allowed_hosts)
    origins = Origins(options.cors_origins)
    keys = ApiKeys(options.api_keys) if options.api_keys else None

    @app.before_request
    def check() -> Response | None:
        # Not `request.host`: it has a default if the header is missing.
        host: str = request.environ.get("HTTP_HOST", "")
        hosts.check(host)
        if origin := header("Origin"):
            origins.check(origin, host)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                # Preflight requests have no key. If the response has no CORS headers, the browser sends no request.
                return Response(status=204, headers=origins.preflight(origin, header))
        if keys and request.endpoint not in OPEN:
            g.api_key = keys.check(header)
        return None

    app.after_request(partial(_add_cors, origins))


def _add_cors(origins: Origins, response: Response) -> Response:
    response.headers.update(origins.headers(header("Origin")))
    response.vary.add("Origin")  # caches must not give one page's response to another
    return response
