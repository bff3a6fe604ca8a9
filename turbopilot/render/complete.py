"""Output of `turbopilot complete`."""

from __future__ import annotations

from typing import Any

from turbopilot.client.completion import CursorAnswer
from turbopilot.render import console


def as_json(answer: CursorAnswer) -> dict[str, Any]:
    """Return an answer for JSON."""
    return {
        "model": answer.model,
        "completions": [
            {"text": c.text, "finish_reason": c.finish_reason} for c in answer.completions
        ],
        "usage": answer.usage,
        "timings": answer.timings,
        "truncated": answer.is_truncated,
    }


def show(answer: CursorAnswer, *, null: bool) -> None:
    """Print the texts of all completions: each with a NUL after it, or with blank lines between them."""
    texts = [c.text for c in answer.completions]
    with console.exact_text() as write:
        for i, text in enumerate(texts):
            write(text)
            if null:
                write("\0")
            elif i < len(texts) - 1:
                write("\n" if text.endswith("\n") else "\n\n")
