"""Prompts of Zed's edit prediction models: Zeta (Qwen2), Zeta 2 and Zeta 2.1 (Seed-Coder).

Source: crates/zeta_prompt of https://github.com/zed-industries/zed (`zeta1`, `V0211SeedCoder` for Zeta 2 and
`V0318SeedMultiRegions` for Zeta 2.1), and the model cards of zed-industries/zeta, zeta-2 and zeta-2.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from serve.prompt.edit_state import EditState, Region, lines_within

# Zed's limits: 350 tokens to rewrite and 150 tokens around them, counted as 3 bytes each.
REGION_BYTES: Final = 3 * 350
CONTEXT_BYTES: Final = 3 * 150
MOST_CHANGES: Final = 6

ZETA_START: Final = "<|editable_region_start|>"
ZETA_END: Final = "<|editable_region_end|>"
ZETA_CURSOR: Final = "<|user_cursor_is_here|>"
FILE_START: Final = "<|start_of_file|>"
INSTRUCTION: Final = (
    "### Instruction:\nYou are a code completion assistant and your task is to analyze user edits and then rewrite an "
    "excerpt that the user provides, suggesting the appropriate edits within the excerpt, taking into account the "
    "cursor location.\n\n### User Edits:\n\n"
)

SUFFIX: Final = "<[fim-suffix]>"
PREFIX: Final = "<[fim-prefix]>"
MIDDLE: Final = "<[fim-middle]>"
FILE: Final = "<filename>"
CURSOR: Final = "<|user_cursor|>"
CURRENT: Final = "<<<<<<< CURRENT\n"
SEPARATOR: Final = "=======\n"
UPDATED: Final = ">>>>>>> UPDATED"
NO_EDITS: Final = "NO_EDITS"

MARKER: Final = re.compile(r"<\|marker_(\d+)\|>")
# Zeta 2.1's lines are divided by markers into blocks of this many lines, preferably after a blank line.
LEAST_BLOCK: Final = 6
MOST_BLOCK: Final = 16
# Lines with which a block should not begin.
_TAIL: Final = re.compile(r"[\])}]|(break|continue|return|throw|end);*$")
# Number of lines among which a better first line is looked for.
_NUDGE: Final = 5


def region(state: EditState) -> Region:
    """Return the lines to rewrite."""
    return lines_within(state.text, state.cursor, REGION_BYTES)


def around(state: EditState, lines: Region) -> tuple[str, str]:
    """Return the text before and after the lines to rewrite, as far as it belongs to the prompt."""
    size = len(lines.text.encode()) + 2 * CONTEXT_BYTES
    whole = lines_within(state.text, state.cursor, size)
    return (
        state.text[min(whole.start, lines.start) : lines.start],
        state.text[lines.end : max(whole.end, lines.end)],
    )


def zeta_prompt(state: EditState, lines: Region) -> str:
    """Return the prompt of Zeta."""
    edits = "\n\n".join(
        f"User edited {c.path}:\n```diff\n{c.diff}\n```" for c in state.changes[-MOST_CHANGES:]
    )
    before, after = around(state, lines)
    first = f"{FILE_START}\n" if len(before) == lines.start else ""
    rewritten = lines.marked(ZETA_CURSOR).removesuffix("\n")
    end = "\n" if lines.text.endswith("\n") else ""
    excerpt = f"{first}{before}{ZETA_START}\n{rewritten}\n{ZETA_END}{end}{after}"
    return (
        f"{INSTRUCTION}{edits}\n\n### User Excerpt:\n\n```{state.path}\n{excerpt}\n```\n\n"
        "### Response:\n"
    )


def zeta_rewritten(output: str, lines: Region) -> str:
    """Return the new lines in the output of Zeta, which repeats the markers of the region."""
    text = output.replace(ZETA_CURSOR, "")
    text = text.partition(ZETA_START)[2].removeprefix("\n") if ZETA_START in text else text
    return with_ending(text.partition(f"\n{ZETA_END}")[0].partition(ZETA_END)[0], lines.text)


def zeta2_prompt(state: EditState, lines: Region) -> str:
    """Return the prompt of Zeta 2."""
    return _seed_prompt(state, lines, f"{CURRENT}{_closed(lines.marked(CURSOR))}{SEPARATOR}")


def zeta2_rewritten(output: str, lines: Region) -> str:
    """Return the new lines in the output of Zeta 2."""
    if output.strip().startswith(NO_EDITS):
        return lines.text
    return with_ending(output.partition(UPDATED)[0].replace(CURSOR, ""), lines.text)


def zeta21_prompt(state: EditState, lines: Region) -> str:
    """Return the prompt of Zeta 2.1."""
    bounds = block_bounds(lines.text)
    parts = []
    for i, (start, end) in enumerate(pairwise(bounds), 1):
        is_last = end == len(lines.text)
        holds = start <= lines.cursor < end or (is_last and lines.cursor == end)
        block, at = lines.text[start:end], lines.cursor - start
        parts.append(f"<|marker_{i}|>{block[:at] + CURSOR + block[at:] if holds else block}")
    return _seed_prompt(state, lines, _closed(f"{''.join(parts)}<|marker_{len(bounds)}|>"))


def zeta21_rewritten(output: str, lines: Region) -> str:
    """Return the new lines in the output of Zeta 2.1: blocks between two markers, or one marker twice for no edit."""
    tags = list(MARKER.finditer(output))
    bounds = block_bounds(lines.text)
    if len(tags) < 2:
        return lines.text
    first, last = int(tags[0][1]), int(tags[-1][1])
    if not 1 <= first < last <= len(bounds):
        return lines.text
    new = MARKER.sub("", output[tags[0].end() : tags[-1].start()]).replace(CURSOR, "")
    return lines.text[: bounds[first - 1]] + new + lines.text[bounds[last - 1] :]


def block_bounds(text: str) -> list[int]:
    """Return the offsets at which the markers of Zeta 2.1 stand: 0, the beginnings of further blocks, the end."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    bounds, last, i = [0], 0, 0
    while i < len(lines):
        after_blank = bool(lines[i].strip()) and i > 0 and not lines[i - 1].strip()
        target = _good_start(lines, i)
        roomy = len(lines) - target >= LEAST_BLOCK
        size = i - last
        if target > last and (
            (size >= LEAST_BLOCK and after_blank and roomy) or size >= MOST_BLOCK
        ):
            bounds.append(starts[target])
            last = i = target
        i += 1
    return [*bounds, len(text)]


def _good_start(lines: Sequence[str], at: int) -> int:
    """Return the first of the next lines that is a good beginning of a block; `at` if there is none."""
    for i in range(at, min(len(lines), at + _NUDGE)):
        line = lines[i].strip()
        if line and not _TAIL.match(line):
            return i
    return at


def _seed_prompt(state: EditState, lines: Region, marked: str) -> str:
    """Return a prompt with the suffix first; the prefix has other files, the changes, and the lines to rewrite."""
    before, after = around(state, lines)
    sections = [f"{FILE}{f.name}\n{_closed(f.text)}\n" for f in (*state.files, *state.snippets)]
    changes = "".join(
        f"--- a/{c.path}\n+++ b/{c.path}\n{c.diff}\n" for c in state.changes[-MOST_CHANGES:]
    )
    if changes:
        sections.append(f"{FILE}edit_history\n{changes}\n")
    context = "".join(sections)
    return f"{SUFFIX}{_closed(after)}{PREFIX}{context}{FILE}{state.path}\n{before}{marked}{MIDDLE}"


def _closed(text: str) -> str:
    """Return the text with a newline at its end."""
    return text if text.endswith("\n") else f"{text}\n"


def with_ending(text: str, like: str) -> str:
    """Return a text with as many newlines at its end as another one has."""
    end = len(like) - len(like.rstrip("\n"))
    return text.rstrip("\n") + "\n" * end
