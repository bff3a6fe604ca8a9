"""Output of `turbopilot editors`: all entries as a table or JSON, or one entry in detail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from turbopilot.editors import EVIDENCE, FIM, Editor, Target, filled
from turbopilot.render import console
from turbopilot.render.table import TableColumns

COLUMNS: Final = ("name", "editor", "plugin", "route", "FIM", "stream", "cancel", "key", "checked")
LEGEND: Final = {
    "FIM": "fill-in-the-middle. apart: the plugin sends prefix and suffix, and the server builds the prompt for the "
    "model; tokens: the plugin builds the prompt, so it must know the model's tokens",
    "stream": "the plugin shows a completion while it is generated",
    "cancel": "the plugin disconnects when a completion is no longer needed; ? means unknown",
    "key": "the plugin can send the key that `turbopilot serve --api-key` requires",
    "checked": "; ".join(f"{word} = {meaning}" for word, meaning in EVIDENCE.items()),
}
"""Explanations of the columns."""
_OPTIONAL: Final = ("route", "plugin", "stream", "key", "cancel", "FIM")
_WORDS: Final = {True: "yes", False: "no", None: "unknown"}


def row(editor: Editor) -> list[str]:
    """Return the table's cells, under `COLUMNS`."""
    e = editor
    cancels = "?" if e.cancel is None else _WORDS[e.cancel]
    fim = "no" if e.fim == "none" else e.fim
    can = [fim, _WORDS[e.stream], cancels, _WORDS[e.auth]]
    return [e.name, e.editor, e.plugin, e.route, *can, e.evidence]


def table(found: Sequence[Editor]) -> None:
    """Print entries, one per row, and the legend."""
    columns = TableColumns(COLUMNS, left=COLUMNS, optional=_OPTIONAL)
    console.table("", columns, [row(e) for e in found], LEGEND)
    console.result("settings of one entry: turbopilot editors NAME")


def plain(editor: Editor, target: Target) -> dict[str, Any]:
    """Return an entry for JSON."""
    fields = asdict(editor)
    del fields["captured"]
    return {**fields, "settings": filled(editor.settings, target)}


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
    for setting in filled(editor.settings, target):
        console.result(f"\n{setting['where']}:\n\n{setting['text']}")
    if editor.notes:
        console.result("")
    for note in editor.notes:
        console.result(f"- {note}")
    if target.key and not editor.auth:
        console.info(f"{editor.plugin} cannot send a key, so these settings do not contain it")
