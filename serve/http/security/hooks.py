"""The checks before each request of the Flask application."""

from __future__ import annotations

from functools import partial

from flask import Flask, Response, g, request

from serve.api.endpoints import ENDPOINTS
from serve.http.security.hosts import Hosts
from serve.http.security.keys import ApiKeys
from serve.http.security.origins import Origins
from serve.settings import SecurityOptions

# Views that need no key. By view and not by path, so that no spelling of a path opens another. Tabby's /v1/health is
# not among them: from its 401 the agent learns that a key is needed.
OPEN = {e.name for e in ENDPOINTS if e.is_open}


def header(name: str) -> str:
    """Return a header of the present request, or ""."""
    return request.headers.get(name, "")


def register(app: Flask, options: SecurityOptions) -> None:
    """Refuse requests under a foreign host name, from a foreign web page, or without a key, in that order.

    `g.api_key` is the key that let a request in.
    """
    hosts = Hosts(options.host, options.allowed_hosts)
    origins = Origins(options.cors_origins)
    keys = ApiKeys(options.api_keys) if options.api_keys else None

    @app.before_request
    def check() -> Response | None:
        # Not `request.host`, which has a default if there is none.
        host: str = request.environ.get("HTTP_HOST", "")
        hosts.check(host)
        if origin := header("Origin"):
            origins.check(origin, host)
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                # A preflight has no key. Without the CORS headers in the response, no request follows it.
                return Response(status=204, headers=origins.preflight(origin, header))
        if keys and request.endpoint not in OPEN:
            g.api_key = keys.check(header)
        return None

    if options.cors_origins:
        app.after_request(partial(_add_cors, origins))


def _add_cors(origins: Origins, response: Response) -> Response:
    response.headers.update(origins.headers(header("Origin")))
    response.vary.add("Origin")  # caches must not give one page's response to another
    return response
