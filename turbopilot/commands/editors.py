"""The `turbopilot editors` command."""

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

    name: Annotated[str, typer.Argument(
        help="Plugin, client or editor, such as llama.vim, curl or vscode. Default: list all.",
    )] = ""
    host: Annotated[str | None, typer.Option(
        show_default=DEFAULT_HOST, help="Host of the server: the value of `serve --host`, or its name in your network.",
    )] = None
    port: Annotated[int | None, typer.Option(
        "-p", "--port", show_default=f"{DEFAULT_PORT}", help="Port of the server: the value of `serve --port`.",
    )] = None
    url: Annotated[str, typer.Option(
        "--url", help="URL of the server, instead of --host and --port, such as https://code.example/turbopilot.",
    )] = ""
    api_key: Annotated[str, typer.Option("--api-key", help="API key to write into the settings.")] = ""
    model: Annotated[str, typer.Option(
        "--model", show_default=False,
        help="Model name to write into the settings. The server accepts any name; some plugins derive the "
        "fill-in-the-middle tokens from it. Default: codegen.",
    )] = ""
    as_json: AsJson = False
# fmt: on


@takes(EditorsArguments)
def editors(given: EditorsArguments) -> None:
    """Print the settings that connect an editor to the server.

    Without a name, list all plugins and clients; with an editor (vscode, jetbrains, vim, neovim, emacs, helix, zed),
    list its plugins. The column "checked" shows how we checked each entry: tested (our tests run that client),
    replayed (our tests send its recorded requests) or documented (taken from its documentation or source).

    Example: turbopilot editors vscode

    Example: turbopilot editors llama.vim --port 18080

    Example: turbopilot editors continue --api-key KEY --model qwen2.5-coder
    """
    from turbopilot.editors import DEFAULT_MODEL, EDITORS, Target
    from turbopilot.render import editors as text

    found = _found(given.name) if given.name else EDITORS
    target = Target(_address(given), given.model or DEFAULT_MODEL, given.api_key)
    if given.as_json:
        entries = [text.plain(e, target) for e in found]
        console.emit_json({"url": target.address.url, "model": target.model, "editors": entries})
    elif len(found) == 1:
        text.in_full(found[0], target)
    else:
        text.table(found)


def _address(given: EditorsArguments) -> Address:
    from turbopilot.editors import address_at, address_of

    host, port = given.host, given.port
    if not given.url:
        return address_of(
            DEFAULT_HOST if host is None else host, DEFAULT_PORT if port is None else port
        )
    if host is not None or port is not None:
        raise InvalidInput(
            "--url cannot be combined with --host or --port",
            hint="give either --url, or --host and --port",
        )
    return address_at(given.url)


def _found(name: str) -> tuple[Editor, ...]:
    from turbopilot.editors import NAMES, find

    if found := find(name):
        return found
    hint = did_you_mean(name, NAMES, "turbopilot editors lists them", stands_for=NAMES)
    raise InvalidInput(f"{name}: unknown editor or plugin", hint=hint)
