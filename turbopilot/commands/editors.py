"""`turbopilot editors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serve.settings import DEFAULT_PORT
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.editors import Address, Editor

DEFAULT_HOST = "127.0.0.1"


def editors(
    name: Annotated[
        str, typer.Argument(help="One of them, whose settings to print; without, they are listed.")
    ] = "",
    host: Annotated[
        str | None,
        typer.Option(
            help="What `serve --host` has, or the server's name in your network.",
            show_default=DEFAULT_HOST,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "-p", "--port", help="What `serve --port` has.", show_default=f"{DEFAULT_PORT}"
        ),
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            help="The server's whole address instead, as https://code.example/turbopilot behind a proxy.",
        ),
    ] = "",
    api_key: Annotated[
        str,
        typer.Option(
            "--api-key",
            help="The key that the server wants, to be written into the settings.",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="The model's name. The server answers to any; some plugins guess from it which tokens the model has "
            "for fill-in-the-middle. Default: codegen.",
            show_default=False,
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as one JSON object.")
    ] = False,
) -> None:
    """Print what to set in an editor, so that it takes its suggestions from the server.

    Each entry says how it was checked: tested (our tests run that client), replayed (they send again what it was seen
    to send) or documented (from its documentation or source).

    Example: turbopilot editors

    Example: turbopilot editors llama.vim --port 18080

    Example: turbopilot editors continue --url https://code.example --api-key KEY --model qwen2.5-coder
    """
    from turbopilot.editors import DEFAULT_MODEL, EDITORS, Target
    from turbopilot.render import editors as text

    found = [_one(name)] if name else list(EDITORS)
    target = Target(_address(host, port, url), model or DEFAULT_MODEL, api_key)
    if as_json:
        entries = [text.plain(e, target) for e in found]
        console.emit_json({"url": target.address.url, "model": target.model, "editors": entries})
    elif name:
        text.in_full(found[0], target)
    else:
        text.table()


def _address(host: str | None, port: int | None, url: str) -> Address:
    from turbopilot.editors import address_at, address_of

    if not url:
        return address_of(
            DEFAULT_HOST if host is None else host, DEFAULT_PORT if port is None else port
        )
    if host is not None or port is not None:
        raise InvalidInput(
            "--url says host and port too", hint="give either --url or --host and --port"
        )
    return address_at(url)


def _one(name: str) -> Editor:
    from turbopilot.editors import EDITORS, find

    if editor := find(name):
        return editor
    known = {n for e in EDITORS for n in (e.name, e.plugin)}
    hint = did_you_mean(name, known, "turbopilot editors lists them")
    raise InvalidInput(f"{name}: no editor of that name is known", hint=hint)
