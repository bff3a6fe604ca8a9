"""Health of a running server, over HTTP."""

from __future__ import annotations

import json
import os
import socket
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from turbopilot.app.doctor.facts import PortFacts, ServerFacts

_SECONDS: Final = 3.0
_HOST: Final = "127.0.0.1"
_MOST_BYTES: Final = 1 << 20


def port_facts(port: int) -> PortFacts:
    """Return whether a loopback port is free, or whether TurboPilot answers there."""
    with socket.socket() as s:
        if os.name == "posix":  # as a server does: connections that have just ended do not count
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((_HOST, port))
        except OSError:
            ours = server_facts(f"http://{_HOST}:{port}").status
            return PortFacts(port, "turbopilot" if ours else "another program")
    return PortFacts(port, "")


def local_server(port: int) -> ServerFacts:
    """Return the health of our server on this machine; no URL if there is none."""
    found = server_facts(f"http://{_HOST}:{port}")
    return found if found.status else ServerFacts("")


def server_facts(url: str) -> ServerFacts:
    """Return what the /health of a server reports, given its URL without a final slash."""
    # Servers on this machine and in the local network are not behind the proxy for the Hub.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=_SECONDS) as response:
            body = response.read(_MOST_BYTES)
    except HTTPError as e:  # 503: loading, stalled, draining or failed
        with e:
            body = e.read(_MOST_BYTES)
    except (OSError, HTTPException) as e:
        return ServerFacts(url, error=str(getattr(e, "reason", e)))
    return _parsed(url, body)


def _parsed(url: str, body: bytes) -> ServerFacts:
    try:
        answer: Any = json.loads(body)
        # llama-server's /health has a status too, but no list of models.
        status, model, _ = answer["status"], answer["model"], answer["models"]
    except (ValueError, KeyError, TypeError):
        return ServerFacts(url, error="the response is not from TurboPilot")
    return ServerFacts(url, str(status), str(model), str(answer.get("reason", "")))
