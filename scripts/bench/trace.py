"""Recorded typing session: its events, its file format, and the prompt that an editor sends at each key.

The file is compact JSON. `files` are the texts at the start of the session; an event is
`[after, close, kind, file, edits]`:

    after   milliseconds to wait before the request is sent, counted from the previous request: from its sending if it
            was abandoned, else from the end of its response
    close   milliseconds after sending at which the client closes the connection; null if it waits for the response
    kind    the person's action, one of KINDS
    file    index of the active file
    edits   changes of the file since its last request: a string is inserted at the cursor, -n deletes n characters
            before the cursor, n or 0 moves the cursor to that offset
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

FORMAT: Final = 1
DATA: Final = Path(__file__).parents[1] / "data" / "typing_trace.json"
KINDS: Final = {
    "type": "a key typed without a completion, or one that differs from it",
    "along": "a key typed that is the next character of the completion",
    "accept": "a whole completion accepted",
    "part": "a word or a line of a completion accepted",
    "typo": "a wrong key",
    "delete": "characters or a word deleted",
    "retype": "deleted characters typed again",
    "elsewhere": "the cursor moved, or a key typed at the new place",
    "switch": "another file made active",
}
# About 1,000 tokens of code; editor plugins send 1,000 to 2,000.
BUDGET: Final = 3200  # characters

Edit: TypeAlias = "str | int"


@dataclass(frozen=True, slots=True)
class Event:
    """One request of a session; the module's docstring describes the fields."""

    after: int
    close: int | None
    kind: str
    file: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """Typing session.

    Attributes:
        about: how the session was made, for readers of the file.
        max_tokens: limit of each request.
        files: (name, text at the start of the session).
        events: the requests in order.
    """

    about: dict[str, Any]
    max_tokens: int
    files: tuple[tuple[str, str], ...]
    events: tuple[Event, ...]

    def prompts(self, budget: int = BUDGET) -> Iterator[str]:
        """Yield the prompt of each event, with at most `budget` characters."""
        open_files = [Buffer(text) for _, text in self.files]
        for event in self.events:
            open_files[event.file].apply(event.edits)
            yield window(open_files[event.file].before, budget)


class Buffer:
    """Text with a cursor, which starts at the end of the text."""

    def __init__(self, text: str) -> None:
        self.text, self.cursor = text, len(text)

    @property
    def before(self) -> str:
        """Text before the cursor."""
        return self.text[: self.cursor]

    def apply(self, edits: Sequence[Edit]) -> None:
        """Apply edits in order."""
        for edit in edits:
            if isinstance(edit, int) and edit >= 0:
                self.cursor = edit
                continue
            new, n = ("", -edit) if isinstance(edit, int) else (edit, 0)
            head = self.text[: self.cursor - n] + new
            self.text, self.cursor = head + self.text[self.cursor :], len(head)


def window(text: str, budget: int = BUDGET) -> str:
    r"""Return the end of a text as an editor sends it: all of a short text, else whole lines within the budget.

    The start moves in steps of a quarter of the budget. It thus stays the same from key to key, and the server can
    reuse the prefix.

    >>> window("short")
    'short'
    >>> long = "a line\n" * 2000
    >>> len(window(long)) <= BUDGET and window(long + "x") == window(long) + "x"
    True
    """
    if len(text) <= budget:
        return text
    step = budget // 4
    start = -(-(len(text) - budget) // step) * step
    line = text.find("\n", start - 1) + 1
    return text[line or start :]


def debounced(trace: Trace, pause: int) -> Trace:
    """Return the same session for an editor that sends a request after `pause` milliseconds without a key.

    Requests that the next key would overtake are not sent. The others are sent `pause` milliseconds later and closed
    at the next key as before.
    """
    events: list[Event] = []
    waiting: dict[int, tuple[Edit, ...]] = {}  # edits of overtaken requests, by file
    elapsed, was_waited = 0, True
    for event in trace.events:
        elapsed += event.after
        edits = waiting.pop(event.file, ()) + event.edits
        if event.close is not None and event.close < pause:
            waiting[event.file] = edits
            continue
        # An abandoned request before this one was delayed by `pause` too; the end of a response was not.
        after = elapsed + pause if was_waited else elapsed
        close = None if event.close is None else event.close - pause
        events.append(replace(event, after=after, close=close, edits=edits))
        elapsed, was_waited = 0, event.close is None
    return replace(trace, events=tuple(events))


def shares(trace: Trace) -> dict[str, Any]:
    """Return statistics of a session."""
    seen: set[str] = set()
    n_again = 0
    sizes = []
    for prompt in trace.prompts():
        n_again += prompt in seen
        seen.add(prompt)
        sizes.append(len(prompt))
    kinds = Counter(e.kind for e in trace.events)
    n_finished = sum(e.close is None for e in trace.events)
    return {
        "requests": len(trace.events),
        "finished": n_finished,
        "abandoned": len(trace.events) - n_finished,
        "prompts_seen_before": n_again,
        "prompt_characters_median": int(statistics.median(sizes)),
        "seconds_without_waiting": round(sum(e.after for e in trace.events) / 1000, 1),
        "kinds": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
    }


def load_trace(path: Path = DATA) -> Trace:
    """Read a trace.

    Raises:
        ValueError: the file has another format version.
    """
    value = json.loads(path.read_text("utf-8"))
    if value["format"] != FORMAT:
        raise ValueError(f"{path}: format {value['format']}, not {FORMAT}")
    events = (Event(a, c, k, f, tuple(edits)) for a, c, k, f, edits in value["events"])
    files = tuple((name, text) for name, text in value["files"])
    return Trace(value["about"], value["max_tokens"], files, tuple(events))


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace with one event per line."""
    rows = [[e.after, e.close, e.kind, e.file, list(e.edits)] for e in trace.events]
    head = {
        "format": FORMAT, "about": trace.about, "shares": shares(trace), "max_tokens": trace.max_tokens,
    }  # fmt: skip
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    for name, values in (("files", trace.files), ("events", rows)):
        body = ",\n".join(json.dumps(v, ensure_ascii=False) for v in values)
        lines.append(f'"{name}": [\n{body}\n]' + ("," if name == "files" else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + "\n".join(lines) + "\n}\n", "utf-8")
