"""Output of `turbopilot editors`: all entries as a table or JSON, or one entry in detail."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from turbopilot.editors import EDITORS, EVIDENCE, FIM, Editor, Target, fill
from turbopilot.render import console

COLUMNS: Final = ("name", "editor", "plugin", "route", "features", "checked")
LEGEND: Final = (
    "stream: the plugin shows a completion while it is generated",
    "FIM (apart): fill-in-the-middle; the plugin sends prefix and suffix, and the server builds the prompt for the "
    "model. FIM (tokens): the plugin builds the prompt, so it must know the model's tokens",
    "cancel: the plugin disconnects when a completion is no longer needed; (?) means unknown",
    "key: the plugin can send the key that `turbopilot serve --api-key` requires",
    "checked: " + "; ".join(f"{word} = {meaning}" for word, meaning in EVIDENCE.items()),
)
"""Explanations of the words in the table."""
_WORDS: Final = {True: "yes", False: "no", None: "unknown"}


def row(editor: Editor) -> list[str]:
    """Return the table's cells, under `COLUMNS`."""
    e = editor
    can = [
        "stream" if e.stream else "",
        "" if e.fim == "none" else f"FIM ({e.fim})",
        {True: "cancel", False: "", None: "cancel (?)"}[e.cancel],
        "key" if e.auth else "",
    ]
    return [e.name, e.editor, e.plugin, e.route, ", ".join(filter(None, can)), e.evidence]


def table() -> None:
    """Print all entries, one per row, and the legend."""
    console.table("", COLUMNS, [row(e) for e in EDITORS], numbers=())
    for line in LEGEND:
        console.result(line)
    console.result("to show the settings of one entry: turbopilot editors NAME")


def filled(editor: Editor, target: Target) -> list[dict[str, str]]:
    """Return the location, format and text of each setting that is not empty for this target."""
    return [
        {"where": s.where, "format": s.format, "text": text}
        for s in editor.settings
        if (text := fill(s, target))
    ]


def plain(editor: Editor, target: Target) -> dict[str, Any]:
    """Return an entry for JSON."""
    fields = asdict(editor)
    del fields["captured"]
    return {**fields, "settings": filled(editor, target)}


def in_full(editor: Editor, target: Target) -> None:
    """Print an entry with its settings and notes."""
    lines = {
        "plugin": f"{editor.plugin} ({editor.editor})",
        "route": f"POST {editor.route} at {target.address.url}",
        "streams": _WORDS[editor.stream],
        "FIM": FIM[editor.fim],
        "cancels": _WORDS[editor.cancel],
        "sends a key": _WORDS[editor.auth],
        "checked": f"{editor.evidence}: {EVIDENCE[editor.evidence]}",
        "source": f"{editor.source} ({editor.read})",
    }
    for name, value in lines.items():
        console.result(f"{name:<14}{value}")
    for setting in filled(editor, target):
        console.result(f"\n{setting['where']}:\n\n{setting['text']}")
    if editor.notes:
        console.result("")
    for note in editor.notes:
        console.result(f"- {note}")
    if target.key and not editor.auth:
        console.info(f"{editor.plugin} cannot send a key, so these settings do not contain it")
