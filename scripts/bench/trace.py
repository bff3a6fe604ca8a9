"""A recorded session of typing: what it holds, its file, and what an editor sends at each key. Pure but for the file.

The file is compact JSON. `files` are the texts as they were when the session began; an event is
`[after, close, kind, file, edits]`:

    after   milliseconds to wait before the request is sent: since the last one was sent where that was abandoned,
            since its answer was complete where that was waited for
    close   milliseconds after sending at which the client closes the connection; null: it waits for the answer
    kind    what the person did, one of KINDS
    file    number of the file in front
    edits   what changed in it since its last request: a text is inserted at the cursor, -n deletes n characters
            before it, n or 0 moves it to that place
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
    "type": "a key typed against or without a suggestion",
    "along": "a key typed that the suggestion on the screen had next",
    "accept": "a suggestion taken whole",
    "part": "a word or a line of a suggestion taken",
    "typo": "a wrong key",
    "delete": "characters or a word deleted",
    "retype": "what was deleted, typed again",
    "elsewhere": "the cursor moved, or a key there",
    "switch": "another file brought to the front",
}
# About a thousand tokens of code; editors' plugins send between one and two thousand.
BUDGET: Final = 3200  # characters
_STEP: Final = BUDGET // 4

Edit: TypeAlias = "str | int"


@dataclass(frozen=True, slots=True)
class Event:
    """One request; see the module."""

    after: int
    close: int | None
    kind: str
    file: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A session.

    Attributes:
        about: how it was made; for people.
        max_tokens: of each request.
        files: (name, text at the beginning).
        events: in order.
    """

    about: dict[str, Any]
    max_tokens: int
    files: tuple[tuple[str, str], ...]
    events: tuple[Event, ...]

    def prompts(self) -> Iterator[str]:
        """What each event's request asks to be completed."""
        open_files = [Buffer(text) for _, text in self.files]
        for event in self.events:
            open_files[event.file].apply(event.edits)
            yield window(open_files[event.file].before)


class Buffer:
    """A text with a cursor, which is at its end at first."""

    def __init__(self, text: str) -> None:
        self.text, self.cursor = text, len(text)

    @property
    def before(self) -> str:
        """The text before the cursor."""
        return self.text[: self.cursor]

    def apply(self, edits: Sequence[Edit]) -> None:
        """Change it, one edit after the other."""
        for edit in edits:
            if isinstance(edit, int) and edit >= 0:
                self.cursor = edit
                continue
            new, n = ("", -edit) if isinstance(edit, int) else (edit, 0)
            head = self.text[: self.cursor - n] + new
            self.text, self.cursor = head + self.text[self.cursor :], len(head)


def window(text: str) -> str:
    r"""The end of a text that an editor sends: from the top where it is short, else from a line's start.

    The start moves in steps of a quarter of the budget: from key to key it stays where it is, so that a server's
    cache of the prompt's beginning is of use.

    >>> window("short")
    'short'
    >>> long = "a line\n" * 2000
    >>> len(window(long)) <= BUDGET and window(long + "x") == window(long) + "x"
    True
    """
    if len(text) <= BUDGET:
        return text
    start = -(-(len(text) - BUDGET) // _STEP) * _STEP
    line = text.find("\n", start - 1) + 1
    return text[line or start :]


def debounced(trace: Trace, pause: int) -> Trace:
    """The same session in an editor that asks only when no key has come for `pause` milliseconds.

    Requests that the next key would have overtaken are never sent; the others are sent `pause` later, and closed
    when the next key comes, as before.
    """
    events: list[Event] = []
    waiting: dict[int, tuple[Edit, ...]] = {}  # edits by file whose request was overtaken
    elapsed, was_waited = 0, True
    for event in trace.events:
        elapsed += event.after
        edits = waiting.pop(event.file, ()) + event.edits
        if event.close is not None and event.close < pause:
            waiting[event.file] = edits
            continue
        # A request before this one was sent late by `pause` too, an answer came when it came.
        after = elapsed + pause if was_waited else elapsed
        close = None if event.close is None else event.close - pause
        events.append(replace(event, after=after, close=close, edits=edits))
        elapsed, was_waited = 0, event.close is None
    return replace(trace, events=tuple(events))


def shares(trace: Trace) -> dict[str, Any]:
    """What a session consists of."""
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
        ValueError: it is of another format.
    """
    value = json.loads(path.read_text("utf-8"))
    if value["format"] != FORMAT:
        raise ValueError(f"{path}: format {value['format']}, not {FORMAT}")
    events = (Event(a, c, k, f, tuple(edits)) for a, c, k, f, edits in value["events"])
    files = tuple((name, text) for name, text in value["files"])
    return Trace(value["about"], value["max_tokens"], files, tuple(events))


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace, an event a line."""
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
