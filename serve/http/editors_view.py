"""View of the settings of editors for this server, which its page shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from flask import Response, request

from serve.http.respond import json_answer
from serve.models import ModelPool
from serve.security_options import SecurityOptions
from turbopilot.base.errors import InvalidInput, InvalidRequest

# From the server's URL, the model's name and whether the server requires an API key: an `EditorsAnswer`.
# A function, because the editors are a sibling of this package.
Editors: TypeAlias = Callable[[str, str, bool], Mapping[str, Any]]
SCHEMES: Final = ("http", "https")


def no_editors(_url: str, _model: str, _needs_key: bool) -> Mapping[str, Any]:
    """Return an answer without editors, for servers that are started without the command line."""
    return {"editors": [], "key_placeholder": ""}


def editors_view(
    models: ModelPool, security: SecurityOptions, editors: Editors
) -> Callable[[], Response]:
    """Return the view of `/status/editors`."""

    def view() -> Response:
        scheme = request.args.get("scheme", SCHEMES[0])
        if scheme not in SCHEMES:
            raise InvalidRequest(f"scheme must be one of {', '.join(SCHEMES)}", param="scheme")
        model = request.args.get("model") or models.known[0].name
        try:
            # The browser reaches this server by the name in the Host header, which security/hosts.py has checked.
            answer = editors(f"{scheme}://{request.host}", model, bool(security.api_keys))
        except InvalidInput as e:
            raise InvalidRequest(e.message) from e
        return json_answer(answer)

    return view
