"""`turbopilot editors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve.settings import DEFAULT_PORT
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.editors import Address, Editor, Target

DEFAULT_HOST = "127.0.0.1"
COLUMNS = ("name", "editor", "plugin", "calls", "can", "how sure")


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

    found = [_one(name)] if name else list(EDITORS)
    target = Target(_address(host, port, url), model or DEFAULT_MODEL, api_key)
    if as_json:
        console.emit_json(
            {
                "url": target.address.url,
                "model": target.model,
                "editors": [_plain(e, target) for e in found],
            }
        )
    elif name:
        _in_full(found[0], target)
    else:
        _table(found)


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


def _settings(editor: Editor, target: Target) -> list[dict[str, str]]:
    """Those that there is something to say in: one that holds a key alone is empty without one."""
    from turbopilot.editors import fill

    return [
        {"where": s.where, "format": s.format, "text": text}
        for s in editor.settings
        if (text := fill(s, target))
    ]


def _plain(editor: Editor, target: Target) -> dict[str, Any]:
    from dataclasses import asdict

    plain = asdict(editor)
    del plain["captured"]
    return {**plain, "settings": _settings(editor, target)}


def _table(found: list[Editor]) -> None:
    console.table("", COLUMNS, [row(e) for e in found], numbers=())
    for line in legend():
        console.result(line)
    console.result("what to set in one of them: turbopilot editors NAME")


def row(editor: Editor) -> list[str]:
    """The table's cells, under `COLUMNS`."""
    e = editor
    can = [
        "stream" if e.stream else "",
        "" if e.fim == "none" else f"infill ({e.fim})",
        {True: "cancel", False: "", None: "cancel (?)"}[e.cancel],
        "key" if e.auth else "",
    ]
    return [e.name, e.editor, e.plugin, e.route, ", ".join(filter(None, can)), e.evidence]


def legend() -> list[str]:
    """What the words of the table mean."""
    from turbopilot.editors import EVIDENCE

    return [
        "stream: it shows a suggestion while it is written",
        "infill, apart: the plugin sends what is before and after the cursor, and the server frames them for any model "
        "that infills; tokens: the plugin writes the model's own tokens, and must know the model",
        "cancel: it leaves when a suggestion is not wanted any more; (?) is not known",
        "key: it can send the one that `turbopilot serve --api-key` wants",
        "how sure: " + "; ".join(f"{word}, {meaning}" for word, meaning in EVIDENCE.items()),
    ]


def _word(known: bool | None) -> str:
    return "?" if known is None else "yes" if known else "no"


def _in_full(editor: Editor, target: Target) -> None:
    from turbopilot.editors import EVIDENCE, FIM

    lines = {
        "plugin": f"{editor.plugin} ({editor.editor})",
        "calls": f"POST {editor.route} at {target.address.url}",
        "streams": _word(editor.stream),
        "infills": FIM[editor.fim],
        "cancels": "not known" if editor.cancel is None else _word(editor.cancel),
        "sends a key": _word(editor.auth),
        "how sure": f"{editor.evidence}: {EVIDENCE[editor.evidence]}",
        "described at": f"{editor.source} ({editor.read})",
    }
    for name, value in lines.items():
        console.result(f"{name:<14}{value}")
    for setting in _settings(editor, target):
        console.result(f"\n{setting['where']}:\n\n{setting['text']}")
    if editor.notes:
        console.result("")
    for note in editor.notes:
        console.result(f"- {note}")
    if target.key and not editor.auth:
        console.info(f"{editor.plugin} cannot send a key: this one is in none of its settings")
