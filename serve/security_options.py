"""Options of access control."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from serve.options import Option

KEY_VARIABLE: Final = "TURBOPILOT_API_KEY"  # environment variable with API keys

# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """Access control. By default, every program on this machine may use the server, and no web page.

    Attributes:
        host: the address that the server listens on; filled in by the server. It decides which Host headers are valid.
    """

    api_keys: Annotated[tuple[str, ...], Option(
        "--api-key", "API key that requests must send (Authorization: Bearer KEY). Can be repeated. Other users "
        "of this machine can see it in the list of processes: use --api-key-file or the environment variable "
        f"{KEY_VARIABLE} instead.",
        metavar="KEY", is_secret=True,
    )] = field(default=(), repr=False)
    cors_origins: Annotated[tuple[str, ...], Option(
        "--cors-origin", "Web page that may use the server from a browser, such as https://chat.example.com. Can be "
        "repeated. By default, only the server's own pages and editors may. * allows every page and needs an API key.",
        metavar="ORIGIN",
    )] = ()
    allowed_hosts: Annotated[tuple[str, ...], Option(
        "--allowed-host", "Additional host name of the server, for example behind a proxy. Can be repeated. Requests "
        "for other names are refused, to protect against DNS rebinding. * allows every name.", metavar="NAME",
    )] = ()
    host: str = "127.0.0.1"
    has_page: Annotated[bool, Option(
        "--no-page/--page", "Do not serve the page with a playground, the server's status and editors' settings.",
    )] = True
    copilot_request_id: Annotated[bool, Option(
        "--copilot-request-id/--no-copilot-request-id", "Add an x-github-request-id header to responses "
        "under /copilot_internal/. Only for a Copilot language server that signs in at this server: the settings of "
        "`turbopilot editors copilot` do not need it.",
    )] = False
    api_key_file: Annotated[Path | None, Option(
        "--api-key-file", "File with API keys, one per line. Lines that begin with # are comments.", metavar="FILE",
    )] = None

# fmt: on
