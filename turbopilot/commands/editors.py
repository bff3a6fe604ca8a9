"""`turbopilot editors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from serve.settings import DEFAULT_PORT
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.editors import Address, Editor

DEFAULT_HOST: Final = "127.0.0.1"


# fmt: off
@dataclass(frozen=True, slots=True)
class EditorsArguments:
    """Arguments of `turbopilot editors`."""

    name: Annotated[str, typer.Argument(help="An editor or plugin whose settings to print. Default: list all.")] = ""
    host: Annotated[str | None, typer.Option(
        show_default=DEFAULT_HOST, help="Value of `serve --host`, or the server's name in your network.",
    )] = None
    port: Annotated[int | None, typer.Option(
        "-p", "--port", show_default=f"{DEFAULT_PORT}", help="Value of `serve --port`.",
    )] = None
    url: Annotated[str, typer.Option(
        "--url", help="The server's whole address instead, as https://code.example/turbopilot behind a proxy.",
    )] = ""
    api_key: Annotated[str, typer.Option("--api-key", help="API key to write into the settings.")] = ""
    model: Annotated[str, typer.Option(
        "--model", show_default=False,
        help="The model's name. The server accepts any; some plugins derive its fill-in-the-middle tokens from it. "
        "Default: codegen.",
    )] = ""
    as_json: AsJson = False
# fmt: on


@takes(EditorsArguments)
def editors(given: EditorsArguments) -> None:
    """Print the settings that make an editor use the server.

    Each entry says how it was checked: tested (our tests run that client), replayed (our tests send its recorded
    requests) or documented (from its documentation or source).

    Example: turbopilot editors

    Example: turbopilot editors llama.vim --port 18080

    Example: turbopilot editors continue --url https://code.example --api-key KEY --model qwen2.5-coder
    """
    from turbopilot.editors import DEFAULT_MODEL, EDITORS, Target
    from turbopilot.render import editors as text

    found = [_editor(given.name)] if given.name else list(EDITORS)
    target = Target(_address(given), given.model or DEFAULT_MODEL, given.api_key)
    if given.as_json:
        entries = [text.plain(e, target) for e in found]
        console.emit_json({"url": target.address.url, "model": target.model, "editors": entries})
    elif given.name:
        text.in_full(found[0], target)
    else:
        text.table()


def _address(given: EditorsArguments) -> Address:
    from turbopilot.editors import address_at, address_of

    host, port = given.host, given.port
    if not given.url:
        return address_of(
            DEFAULT_HOST if host is None else host, DEFAULT_PORT if port is None else port
        )
    if host is not None or port is not None:
        raise InvalidInput(
            "--url contains host and port already",
            hint="give either --url or --host and --port",
        )
    return address_at(given.url)


def _editor(name: str) -> Editor:
    from turbopilot.editors import EDITORS, find

    if editor := find(name):
        return editor
    known = {n for e in EDITORS for n in (e.name, e.plugin)}
    hint = did_you_mean(name, known, "turbopilot editors lists them")
    raise InvalidInput(f"{name}: not a known editor", hint=hint)
