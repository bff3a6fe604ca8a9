"""A simulated person who writes code with suggestions on. Seeded: the same suggestions make the same session.

What is modelled: bursts of keys with human times between them, wrong keys, words deleted and written again, a look at
the suggestion at the end of a burst; taking it (whole, a word, a line) or typing along where it agrees with what the
person means to write, typing on where it does not; at times taking what the model says though something else was
meant, and deleting the end of it; a change further up in the file; going from file to file and back.
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
# Looking at a suggestion and deciding; Copilot's users take about half a second for a short one.
_LOOK = {"accept": (350, 800), "reject": (200, 550)}
_WORTH = 4  # fewer characters are typed faster than accepted


@dataclass
class Desk:
    """A file in front of the person: what is there, and what is still to be written at the cursor."""

    buffer: Buffer
    todo: str
    pending: list[Edit] = field(default_factory=list)


class Typist:
    """Writes until there are `n` requests, in the files by turns.

    Args:
        files: (text that is there, text to write after it).
        suggest: the model's suggestion for a prompt.
        seed: of all choices.
    """

    def __init__(self, files: Sequence[tuple[str, str]], suggest: Suggest, seed: int) -> None:
        self._desks = [Desk(Buffer(text), todo) for text, todo in files]
        self._suggest = suggest
        self._random = random.Random(seed)
        self._front = 0
        self._pause: int | None = None  # since the last answer; None where it was abandoned
        self.events: list[Event] = []

    def work(self, n: int, n_visits: int) -> list[Event]:
        """Write, with so many visits to files."""
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
        """One of the things that people do."""
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
        """One character of what is to be written; a new line brings its indentation, as editors do."""
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
        """Take text of a suggestion; most people then look at what comes next."""
        self._think("accept")
        if self._random.random() < 0.7:
            self._decide(self._look(kind, [text]), n_more - 1)
        else:
            self._key(kind, [text])

    def _follow(self, suggestion: str) -> None:
        """Let the model write for a while, then delete the end of it and go on with the next line meant."""
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
        """Change a line some way up, and come back."""
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
        """A request that the next key overtakes: it is closed when that comes."""
        gap = every or int(slower * self._random.lognormvariate(0, _SPREAD) * _KEY)
        self._send(kind, edits, max(25, gap))

    def _look(self, kind: str, edits: list[Edit]) -> str:
        """A request whose answer the person waits for."""
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
        """The pause before the next event, where it is not decided already."""
        if self._pause is None:
            self._pause = self._random.randint(*_LOOK[what])


def _agreement(a: str, b: str) -> int:
    """How many characters both begin with."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _boundary(text: str, n: int) -> int:
    """The end of the last whole line, else word, within the first `n` characters."""
    line = text.rfind("\n", 0, n)
    if line >= _WORTH:
        return line
    ends = [m.end() for m in re.finditer(r"\w+|[^\w\s]+", text) if m.end() <= n]
    return ends[-1] if ends else 0
