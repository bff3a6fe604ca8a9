"""The `turbopilot top` command."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import typer

from turbopilot.commands.complete import DEFAULT_URL, ApiKey, Url
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console


# fmt: off
@dataclass(frozen=True, slots=True)
class TopArguments:
    """Arguments of `turbopilot top`."""

    url: Url = None
    api_key: ApiKey = ""
    once: Annotated[bool, typer.Option("--once", help="Print the status once, as text, also on a terminal.")] = False
    as_json: AsJson = False
# fmt: on


@takes(TopArguments)
def top(given: TopArguments) -> None:
    """Show what a running server does: models, memory, queue, speeds and the last requests.

    On a terminal, the table is drawn again and again until you press q or Ctrl-C; in a pipe, it is printed once. The
    character of a slot shows what it does: · is free, ▒ prefill, █ decode. For a slow request, the column "why" names
    what took most of the time. --json prints the answer of the server's route /status.

    Example: turbopilot top

    Example: turbopilot top --url https://code.example/turbopilot --once

    Example: turbopilot top --json
    """
    from turbopilot.client.connection import ServerConnection
    from turbopilot.client.server_status import StatusFollower, StatusHistory, status_of
    from turbopilot.editors import address_at
    from turbopilot.render import live_screen
    from turbopilot.render.top import screen

    server = ServerConnection(address_at(given.url or DEFAULT_URL).url, given.api_key)
    status = status_of(server)
    if given.as_json:
        console.emit_json(status)
    elif given.once or not live_screen.can_draw():
        width = shutil.get_terminal_size().columns
        live_screen.print_once(screen(StatusHistory.beginning(status), server.url, width))
    else:
        with closing(StatusFollower(server, status)) as follower:
            live_screen.watch(
                lambda width, height: screen(
                    follower.history, server.url, width, height, failure=follower.failure
                )
            )
