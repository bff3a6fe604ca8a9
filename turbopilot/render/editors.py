"""Words for `turbopilot editors`: the entries as a table, one in full, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from turbopilot.editors import EDITORS, EVIDENCE, FIM, Editor, Target, fill
from turbopilot.render import console

COLUMNS: Final = ("name", "editor", "plugin", "calls", "can", "how sure")
LEGEND: Final = (
    "stream: it shows a suggestion while it is written",
    "infill, apart: the plugin sends what is before and after the cursor, and the server frames them for any model "
    "that infills; tokens: the plugin writes the model's own tokens, and must know the model",
    "cancel: it leaves when a suggestion is not wanted any more; (?) is not known",
    "key: it can send the one that `turbopilot serve --api-key` wants",
    "how sure: " + "; ".join(f"{word}, {meaning}" for word, meaning in EVIDENCE.items()),
)
"""Meanings of the words in the table."""
_WORDS: Final = {True: "yes", False: "no", None: "not known"}


def row(editor: Editor) -> list[str]:
    """Return the table's cells, under `COLUMNS`."""
    e = editor
    can = [
        "stream" if e.stream else "",
        "" if e.fim == "none" else f"infill ({e.fim})",
        {True: "cancel", False: "", None: "cancel (?)"}[e.cancel],
        "key" if e.auth else "",
    ]
    return [e.name, e.editor, e.plugin, e.route, ", ".join(filter(None, can)), e.evidence]


def table() -> None:
    """Print all entries, one a row."""
    console.table("", COLUMNS, [row(e) for e in EDITORS], numbers=())
    for line in LEGEND:
        console.result(line)
    console.result("what to set in one of them: turbopilot editors NAME")


def filled(editor: Editor, target: Target) -> list[dict[str, str]]:
    """Return the settings as where, format and text; without a key, one that holds nothing else is left out."""
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
        "calls": f"POST {editor.route} at {target.address.url}",
        "streams": _WORDS[editor.stream],
        "infills": FIM[editor.fim],
        "cancels": _WORDS[editor.cancel],
        "sends a key": _WORDS[editor.auth],
        "how sure": f"{editor.evidence}: {EVIDENCE[editor.evidence]}",
        "described at": f"{editor.source} ({editor.read})",
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
        console.info(f"{editor.plugin} cannot send a key: this one is in none of its settings")
