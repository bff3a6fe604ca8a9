"""All editors with settings for one server, as plain values for the server's page."""

from __future__ import annotations

from typing import Any, Final

from turbopilot.editors import DEFAULT_MODEL, EDITORS, EVIDENCE, Editor, Target, address_at, filled
from turbopilot.editors.checks import check_of

KEY_PLACEHOLDER: Final = "YOUR_API_KEY"
"""Stands for the API key in the settings. It needs no quotes in any format."""
_CANNOT_SEND: Final = "This plugin cannot send an API key, which this server requires."


def entries(url: str, model: str, needs_key: bool) -> dict[str, Any]:
    """Return every editor with its settings, notes and check: `EditorsAnswer` of serve/api/status.py.

    Args:
        url: URL of the server.
        model: name of the model; a name that settings cannot contain is replaced by DEFAULT_MODEL.
        needs_key: whether the server requires an API key; then the settings contain KEY_PLACEHOLDER.

    Raises:
        InvalidInput: the URL is not one of a server.
    """
    can_be_set = model.isascii() and model.isprintable() and model.strip()
    key = KEY_PLACEHOLDER if needs_key else ""
    target = Target(address_at(url), model if can_be_set else DEFAULT_MODEL, key)
    return {"editors": [_entry(e, target) for e in EDITORS], "key_placeholder": key}


def _entry(e: Editor, target: Target) -> dict[str, Any]:
    check = check_of(e, target.model)
    return {
        "name": e.name,
        "editor": e.editor,
        "plugin": e.plugin,
        "settings": filled(e.settings, target),
        "notes": [*([_CANNOT_SEND] if target.key and not e.auth else ()), *e.notes],
        "source": e.source,
        "evidence": f"{e.evidence}: {EVIDENCE[e.evidence]}",
        "check": {
            "method": "POST",
            "path": check.path,
            "body": check.body,
            "streams": check.streams,
        },
    }
