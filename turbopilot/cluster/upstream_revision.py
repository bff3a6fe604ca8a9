"""One revision of the model in a front: its tokenizer, its prompts and its routes, with the engines as upstreams."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from serve.http.app import create_app
from serve.models import ModelPool
from serve.settings import ServerOptions
from serve.upstream.upstream_set import UpstreamSet
from turbopilot.cluster.http_thread import load_default
from turbopilot.cluster.roles import DRAIN_SECONDS, Role
from turbopilot.cluster.settings import read_role

log = logging.getLogger("turbopilot.cluster")


class UpstreamRevision:
    """The server of a role, whose completions engines compute. See `ServedRevision`.

    Args:
        role: what the engines serve.
        urls: the engines that run now.
        host: address that the front listens on.

    Raises:
        TurboPilotError: the model's tokenizer cannot be loaded on this node.
    """

    def __init__(self, role: Role, urls: Sequence[str], host: str) -> None:
        self._models, self._upstreams, options = self.open(role, urls)
        security = replace(options.security, host=host)
        self._app = create_app(self._models, options.request_defaults, security, options.shown)
        load_default(self._models)

    def open(self, role: Role, urls: Sequence[str]) -> tuple[ModelPool, UpstreamSet, ServerOptions]:
        """Return the models, their engines and the options of the server; tests override it."""
        from serve.models.upstream_loading import make_upstream_pool

        options = read_role(role, urls)
        return *make_upstream_pool(options, log.info), options

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        return self._app(environ, start_response)

    def replace(self, urls: Sequence[str]) -> None:
        """Send requests to these engines from now on."""
        self._upstreams.replace(urls)

    def close(self) -> None:
        """Let the running requests finish, and free the tokenizer."""
        self._models.wait_until_idle(DRAIN_SECONDS)
        self._models.close()
