"""Prompts of Continue's Instinct, a chat model. Its own client sends a longer system message.

Source: core/nextEdit (constants.ts, templating/instinct.ts, NextEditPromptEngine.ts) of
https://github.com/continuedev/continue.
"""

from __future__ import annotations

from typing import Final

from serve.prompt.chat_template import Message
from serve.prompt.edit_state import EditState, Region, lines_around
from serve.prompt.zeta import ZETA_CURSOR, ZETA_END, ZETA_START, with_ending

N_BEFORE: Final = 1
N_AFTER: Final = 5
CONTEXT_LINES: Final = 25
MOST_CHANGES: Final = 6
_SYSTEM: Final = (
    f"Predict the next edit of a developer. Rewrite the code between {ZETA_START} and {ZETA_END}, considering the "
    f"context, the recent edits and the cursor at {ZETA_CURSOR}. Answer with the rewritten code only, without these "
    "markers."
)


def region(state: EditState) -> Region:
    """Return the lines to rewrite."""
    return lines_around(state.text, state.cursor, N_BEFORE, N_AFTER)


def prompt(state: EditState, lines: Region) -> tuple[Message, ...]:
    """Return the messages: the latest change comes first."""
    whole = lines_around(state.text, state.cursor, CONTEXT_LINES, CONTEXT_LINES)
    before, after = state.text[whole.start : lines.start], state.text[lines.end : whole.end]
    context = "\n".join(
        f"<|context_file|>: {f.name}\n<|snippet|>\n{f.text}"
        for f in (*state.files, *state.snippets)
    )
    edits = "\n".join(
        f'User edited file "{c.path}"\n\n```diff\n{c.diff}\n```'
        for c in reversed(state.changes[-MOST_CHANGES:])
    )
    marked = lines.marked(ZETA_CURSOR).removesuffix("\n")
    excerpt = f"{before}{ZETA_START}\n{marked}\n{ZETA_END}\n{after}"
    user = (
        "Update the editable region of the user excerpt by predicting the changes that the developer makes next.\n\n"
        f"### Context:\n{context}\n\n### User Edits:\n\n{edits}\n\n### User Excerpt:\n{state.path}\n\n"
        f"{excerpt}```\n### Response:"
    )
    return Message("system", _SYSTEM), Message("user", user)


def rewritten(output: str, lines: Region) -> str:
    """Return the new lines in the model's answer."""
    text = output.replace(ZETA_CURSOR, "")
    text = text.partition(ZETA_START)[2].removeprefix("\n") if ZETA_START in text else text
    return with_ending(text.partition(ZETA_END)[0], lines.text)
