"""A grammar in GBNF → its rules, read as llama.cpp's parser reads them. Pure.

Source: llama_grammar_parser in llama.cpp's src/llama-grammar.cpp, but for tokens by name (`<…>`): one of them after a
text makes llama.cpp throw an exception, which ends a process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from turbopilot.base.errors import InvalidRequest

MAX_DEPTH = 512  # of brackets: llama.cpp recurses, with less than 2 KB of stack for each
MAX_ELEMENTS = 100_000  # what repetitions written out amount to; 8 bytes each, in several copies
_MOST_REPEATS = 2000  # llama.cpp's MAX_REPETITION_THRESHOLD

CHAR, _MORE = (
    -1,
    -2,
)  # an element that reads a character; the rest of its class. Others are rules' numbers.
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COUNT = re.compile(r"[0-9]{1,18}")
_ESCAPE = re.compile(
    r'\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[trn\\"\[\]-])|[^\\]', re.S
)
_OPERATORS = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Alternatives = list[list[int]]


@dataclass(slots=True)
class _Open:
    """A rule or bracket being read."""

    rule: int
    n_symbols: int
    alternatives: Alternatives = field(default_factory=lambda: [[]])
    start: int = 0  # of the last symbol, in the last alternative
    n_previous: int = 1  # what the last symbol counts in llama.cpp's limit on repetition


def read_gbnf(text: str) -> tuple[list[Alternatives], dict[str, int]]:
    """Rules by number, each as alternative sequences of elements, and the numbers of those with a name.

    Raises:
        InvalidRequest: it is no GBNF, lacks a rule, or repeats or nests too much.
    """
    reader = _Reader(text)
    reader.read()
    return reader.defined(), reader.numbers


def refusal(reason: str) -> InvalidRequest:
    """What is said of a grammar that is not taken."""
    return InvalidRequest(f"the grammar cannot be used: {reason}", param="grammar")


class _Reader:
    """Text → rules of elements, with brackets and repetitions written out as further rules."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._rules: list[Alternatives | None] = []
        self.numbers: dict[str, int] = {}
        self._n_elements = 0

    def read(self) -> None:
        self._skip(_SPACE_OR_LINE)
        while self._at < len(self._text):
            number = self._named(self._match(_NAME, "the name of a rule"))
            self._skip(_SPACE)
            self._expect("::=")
            self._skip(_SPACE_OR_LINE)
            self._read_alternatives(number)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._fault("a new line")
            self._skip(_SPACE_OR_LINE)

    def defined(self) -> list[Alternatives]:
        missing = [name for name, n in self.numbers.items() if self._rules[n] is None]
        if "root" not in self.numbers:
            missing.insert(0, "root")
        if missing:
            raise refusal(f"no rule is named {missing[0]!r}")
        return [rule for rule in self._rules if rule is not None]

    def _read_alternatives(self, number: int) -> None:
        """One rule's right side. Brackets are kept in a list: they may be deep."""
        opened = [_Open(number, 0)]
        while True:
            this, c = opened[-1], self._text[self._at : self._at + 1]
            space = _SPACE_OR_LINE if len(opened) > 1 else _SPACE
            if c in ("*", "+", "?", "{") and c:
                low, high = self._read_count() if c == "{" else _OPERATORS[self._next()]
                self._skip(space)
                self._repeat(this, low, high)
            elif c == "(":
                if len(opened) > MAX_DEPTH:
                    raise refusal(f"its brackets are more than {MAX_DEPTH} deep")
                self._next()
                self._skip(_SPACE_OR_LINE)
                opened.append(_Open(self._new_rule(), len(self._rules) - 1))
            elif c == "|":
                self._next()
                self._skip(_SPACE_OR_LINE)
                this.alternatives.append([])
                this.start, this.n_previous = 0, 1
            elif c == ")" and len(opened) > 1:
                self._next()
                opened.pop()
                self._rules[this.rule] = this.alternatives
                self._skip(_SPACE_OR_LINE if len(opened) > 1 else _SPACE)
                n_made = len(self._rules) - this.n_symbols
                self._add(opened[-1], [this.rule], n_made)
            elif c and (c in '"[.' or _NAME.match(c)):
                self._add(this, self._read_symbol(c), 1)
                self._skip(space)
            elif c and c in "<!":
                raise refusal("it names tokens (<…>), which are not supported: write their text")
            elif len(opened) > 1:
                raise self._fault("a closing bracket")
            else:
                self._rules[number] = this.alternatives
                return

    def _read_symbol(self, c: str) -> list[int]:
        if c == ".":
            self._next()
            return [CHAR]
        if c == '"':
            self._next()
            elements = []
            while not self._passed('"'):
                self._match(_ESCAPE, "a character or a closing quote")
                elements.append(CHAR)
            return elements
        if c == "[":
            return self._read_class()
        return [self._named(self._match(_NAME, "a name"))]

    def _read_class(self) -> list[int]:
        self._next()
        self._passed("^")
        elements: list[int] = []
        while not self._passed("]"):
            self._match(_ESCAPE, "a character or ]")
            elements.append(_MORE if elements else CHAR)
            if (
                self._text[self._at : self._at + 1] == "-"
                and self._text[self._at + 1 : self._at + 2] != "]"
            ):
                self._next()
                self._match(_ESCAPE, "the end of a range")
                elements.append(_MORE)
        return elements

    def _read_count(self) -> tuple[int, int | None]:
        self._next()
        self._skip(_SPACE)
        low = int(self._match(_COUNT, "a number"))
        high: int | None = low
        self._skip(_SPACE)
        if self._passed(","):
            self._skip(_SPACE)
            found = _COUNT.match(self._text, self._at)
            high = int(self._match(_COUNT, "a number")) if found else None
            self._skip(_SPACE)
        self._expect("}")
        if low > _MOST_REPEATS:
            raise refusal(f"it repeats {low} times, of at most {_MOST_REPEATS}")
        if high is not None and high < low:
            raise refusal(f"it repeats at least {low} and at most {high} times")
        return low, high if high is None or high <= _MOST_REPEATS else None

    def _repeat(self, this: _Open, low: int, high: int | None) -> None:
        """S{m,n} → S m times, then n - m rules S' ::= S S'' | nothing; S{m,} → S m times, S' ::= S S' | nothing."""
        sequence = this.alternatives[-1]
        repeated = sequence[this.start :]
        if not repeated:
            raise self._fault("something to repeat")
        this.n_previous *= high or low or 1
        if this.n_previous > _MOST_REPEATS:
            raise refusal(f"its repetitions multiply to more than {_MOST_REPEATS}")
        n_optional = 1 if high is None else high - low
        self._count(len(repeated) * (low + n_optional) + n_optional)
        if low == 0:
            del sequence[this.start :]
        else:
            sequence.extend(repeated * (low - 1))
        last: int | None = None
        for _ in range(n_optional):
            rule = self._new_rule()
            follower = rule if high is None else last
            self._rules[rule] = [repeated if follower is None else [*repeated, follower], []]
            last = rule
        if last is not None:
            sequence.append(last)

    def _add(self, this: _Open, elements: list[int], n_previous: int) -> None:
        self._count(len(elements))
        sequence = this.alternatives[-1]
        this.start, this.n_previous = len(sequence), n_previous
        sequence.extend(elements)

    def _count(self, n: int) -> None:
        self._n_elements += n
        if self._n_elements > MAX_ELEMENTS:
            raise refusal(f"written out, it has more than {MAX_ELEMENTS} elements")

    def _named(self, name: str) -> int:
        if name not in self.numbers:
            self.numbers[name] = self._new_rule()
        return self.numbers[name]

    def _new_rule(self) -> int:
        self._rules.append(None)
        return len(self._rules) - 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _match(self, pattern: re.Pattern[str], wanted: str) -> str:
        found = pattern.match(self._text, self._at)
        if not found:
            raise self._fault(wanted)
        self._at = found.end()
        return found[0]

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _passed(self, c: str) -> bool:
        found = self._text.startswith(c, self._at)
        self._at += len(c) if found else 0
        return found

    def _expect(self, c: str) -> None:
        if not self._passed(c):
            raise self._fault(c)

    def _fault(self, wanted: str) -> InvalidRequest:
        line = self._text.count("\n", 0, self._at) + 1
        there = self._text[self._at : self._at + 20]
        return refusal(f"line {line}: expected {wanted}" + (f", not {there!r}" if there else ""))
