"""Simulated person who writes code with completions. Seeded: the same completions lead to the same session.

The model of a session:

- The person types bursts of keys at human speed, with wrong keys, and deletes and retypes words.
- At the end of a burst the person looks at the completion. If it agrees with the text to be written, the person accepts
  it (whole, a word or a line) or types the same characters; else the person types on.
- At times the person accepts a completion that differs, and deletes its end.
- At times the person changes an earlier line, or switches to another file and back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.trace import Buffer, Edit, Event, window

Suggest = Callable[[str], str]

# Milliseconds between keys within a burst: median 125, a tenth below 80 and above 200; some 60 words a minute.
# Source: Dhakal et al., Observations on Typing from 136 Million Keystrokes (CHI 2018): mean 238, fast typists 120.
_KEY, _SPREAD = 125, 0.38
_HELD = 45  # a key held down repeats about every 40 ms
# Milliseconds to read a completion and decide; Copilot's users take about 500 ms for a short one.
_LOOK = {"accept": (350, 800), "reject": (200, 550)}
_WORTH = 4  # typing fewer characters is faster than accepting them


@dataclass
class Desk:
    """File that is open in the editor, with the text that is still to be written at the cursor."""

    buffer: Buffer
    todo: str
    pending: list[Edit] = field(default_factory=list)


class Typist:
    """Simulated person who writes several files by turns.

    Args:
        files: (existing text, text to write after it).
        suggest: returns the model's completion of a prompt.
        seed: seed of all choices.
    """

    def __init__(self, files: Sequence[tuple[str, str]], suggest: Suggest, seed: int) -> None:
        self._desks = [Desk(Buffer(text), todo) for text, todo in files]
        self._suggest = suggest
        self._random = random.Random(seed)
        self._front = 0
        self._pause: int | None = None  # milliseconds since the last response; None if undecided
        self.events: list[Event] = []

    def work(self, n: int, n_visits: int) -> list[Event]:
        """Write until there are `n` requests, in `n_visits` visits to files."""
        for visit in range(n_visits):
            self._front = visit % len(self._desks)
            if visit:
                self._look("switch", [])
            until = n * (visit + 1) // n_visits
            while len(self.events) < until and self._desk.todo:
                self._moment()
        return self.events

    @property
    def _desk(self) -> Desk:
        return self._desks[self._front]

    def _moment(self) -> None:
        """Take one random action: delete and retype, edit elsewhere, or type a burst."""
        chance = self._random.random()
        if chance < 0.09 and len(self._desk.buffer.before) > 20:
            self._delete_and_retype()
        elif chance < 0.107:
            self._elsewhere()
        else:
            self._burst(self._random.choice((1, 2, 2, 3, 3, 5)))

    def _burst(self, n: int) -> None:
        for i in range(n):
            if not self._desk.todo:
                return
            if self._random.random() < 0.05:
                self._key("typo", [self._random.choice("abcdefghijklmnopqrstuvwxyz")])
                self._key("delete", [-1], slower=1.6)
            key = self._next_key()
            if i < n - 1:
                self._key("type", [key])
            else:
                self._decide(self._look("type", [key]))

    def _next_key(self) -> str:
        """Return the next character to write; a new line includes its indentation, which editors insert."""
        desk = self._desk
        found = re.match(r"\n+[ \t]*|.", desk.todo, re.DOTALL)
        assert found
        desk.todo = desk.todo[found.end() :]
        return found.group()

    def _decide(self, suggestion: str, n_more: int = 3) -> None:
        desk = self._desk
        agree = _agreement(suggestion, desk.todo)
        if agree >= _WORTH and n_more:
            cut = agree if agree == len(suggestion) else _boundary(suggestion, agree)
            if cut >= _WORTH and self._random.random() < 0.75:
                desk.todo = desk.todo[cut:]
                kind = "accept" if cut == len(suggestion) else "part"
                self._take(kind, suggestion[:cut], n_more)
            else:
                for _ in range(min(agree, 7)):
                    if desk.todo:
                        self._key("along", [self._next_key()], slower=0.9)
        elif len(suggestion.strip()) > 8 and self._random.random() < 0.14:
            self._follow(suggestion)

    def _take(self, kind: str, text: str, n_more: int) -> None:
        """Accept text of a completion; with a probability of 70 % look at the next completion."""
        self._think("accept")
        if self._random.random() < 0.7:
            self._decide(self._look(kind, [text]), n_more - 1)
        else:
            self._key(kind, [text])

    def _follow(self, suggestion: str) -> None:
        """Accept 1 to 3 whole completions, delete the last words, and go on with the next line to write."""
        n_taken = 0
        for _ in range(self._random.choice((1, 2, 3))):
            self._think("accept")
            n_taken += len(suggestion)
            suggestion = self._look("accept", [suggestion])
            if not suggestion.strip():
                break
        for _ in range(self._random.choice((1, 2, 3))):
            word = re.search(r"(\w+|[^\w\s]+|\s)\s*$", self._desk.buffer.before[-n_taken:])
            if not word or n_taken <= len(word.group()):
                break
            n_taken -= len(word.group())
            self._key("delete", [-len(word.group())], slower=1.3)
        _, new_line, rest = self._desk.todo.partition("\n")
        self._desk.todo = new_line + rest
        if rest:
            self._look("type", [self._next_key()])

    def _delete_and_retype(self) -> None:
        desk = self._desk
        n = self._random.choice((2, 3, 4, 6))
        gone = desk.buffer.before[-n:]
        for _ in range(n - 1):
            self._key("delete", [-1], every=_HELD)
        self._look("delete", [-1])
        for char in gone:
            self._key("retype", [char])

    def _elsewhere(self) -> None:
        """Add a comment to one of the last 30 lines, and return to the end."""
        buffer = self._desk.buffer
        end = buffer.cursor
        lines = [m.start() for m in re.finditer(r"\n", buffer.before[:-1])][-30:]
        if len(lines) < 4:
            return
        place = self._random.choice(lines)
        self._key("elsewhere", [place], slower=5)
        mark = "#" if "\ndef " in f"\n{buffer.text}" else "//"
        added = f" {mark} " + self._random.choice(("TODO", "why?", "see above"))
        for char in added[:-1]:
            self._key("elsewhere", [char])
        self._look("elsewhere", [added[-1]])
        self._think("reject")
        self._look("elsewhere", [end + len(added)])

    def _key(self, kind: str, edits: list[Edit], *, slower: float = 1, every: int = 0) -> None:
        """Record a request that is closed when the next key comes."""
        gap = every or int(slower * self._random.lognormvariate(0, _SPREAD) * _KEY)
        self._send(kind, edits, max(25, gap))

    def _look(self, kind: str, edits: list[Edit]) -> str:
        """Record a request whose completion the person waits for, and return the completion."""
        self._send(kind, edits, None)
        return self._suggest(window(self._desk.buffer.before))

    def _send(self, kind: str, edits: list[Edit], close: int | None) -> None:
        self._desk.buffer.apply(edits)
        last = self.events[-1].close if self.events else 0
        if last is None:
            self._think("reject")
            after = self._pause or 0
        else:
            after = last
        self._pause = None
        self.events.append(Event(after, close, kind, self._front, tuple(edits)))

    def _think(self, what: str) -> None:
        """Choose the pause before the next event if it is undecided."""
        if self._pause is None:
            self._pause = self._random.randint(*_LOOK[what])


def _agreement(a: str, b: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _boundary(text: str, n: int) -> int:
    """Return the end of the last whole line, else of the last word, within the first `n` characters."""
    line = text.rfind("\n", 0, n)
    if line >= _WORTH:
        return line
    ends = [m.end() for m in re.finditer(r"\w+|[^\w\s]+", text) if m.end() <= n]
    return ends[-1] if ends else 0
