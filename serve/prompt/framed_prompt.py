"""Prompts in parts, and the recognition of prompts that clients have framed for fill-in-the-middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from serve.prompt.bound_layout import BoundLayout, FimLayouts

# A part of a prompt that may be shortened.
PromptField: TypeAlias = Literal["files", "before", "after"]
FIELDS: Final[dict[str, PromptField]] = {
    "{files}": "files", "{prefix}": "before", "{suffix}": "after",
}  # fmt: skip
# Text that a client has put in front of the frame loses its beginning in pieces of this many tokens. A shorter one,
# such as the name of the edited file, is kept.
PIECE: Final = 64


@dataclass(slots=True)
class Prompt:
    """A prompt in parts.

    To fit the context, `before` loses its beginning, `after` its end, and `files` whole files, beginning with the
    first.

    Attributes:
        fixed: tokens that are never cut: before the first field, between fields, and after the last one.
        order: the fields, in the order of the prompt.
        files: tokens of each of the other files.
        max_tokens: maximum tokens to generate after the prompt.
        truncated: names of the parts that were shortened to fit: "prompt", "input_extra" or "max_tokens".
    """

    fixed: Sequence[list[int]]
    order: tuple[PromptField, ...]
    before: list[int]
    after: list[int]
    files: Sequence[list[int]] = ()
    max_tokens: int = 0
    truncated: tuple[str, ...] = ()

    @property
    def n_structure(self) -> int:
        """Number of tokens that are never cut."""
        return sum(map(len, self.fixed))

    @property
    def n_tokens(self) -> int:
        """Total number of tokens."""
        return self.n_structure + sum(map(len, (*self.files, self.before, self.after)))

    @property
    def n_text(self) -> int:
        """Number of tokens without the other files."""
        return self.n_tokens - sum(map(len, self.files))

    @property
    def window(self) -> int:
        """Index of the first token of the text around the cursor."""
        n = len(self.fixed[0])
        if self.order[:1] == ("files",):
            n += sum(map(len, self.files)) + len(self.fixed[1])
        return n

    @property
    def cursor(self) -> int:
        """Index of the first token after `before`."""
        sizes = {
            "files": sum(map(len, self.files)),
            "before": len(self.before),
            "after": len(self.after),
        }
        at = self.order.index("before") + 1 if "before" in self.order else 0
        return sum(map(len, self.fixed[:at])) + sum(sizes[name] for name in self.order[:at])

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids in the order of the prompt."""
        files = [token for file in self.files for token in file]
        fields = {"files": files, "before": self.before, "after": self.after}
        found = list(self.fixed[0])
        for name, fixed in zip(self.order, self.fixed[1:], strict=True):
            found += fields[name]
            found += fixed
        return tuple(found)


def plain_prompt(head: list[int], tokens: list[int]) -> Prompt:
    """Return a prompt without a suffix."""
    return Prompt([head, []], ("before",), tokens, [])


def find_frame(head: list[int], tokens: list[int], fim: FimLayouts | None) -> Prompt:
    """Return the parts of a prompt that the client framed in a layout of the model.

    Each token of the layout must occur once, in the layout's order. If the prompt is not framed, all is `before`.

    Args:
        head: tokens before the prompt.
        tokens: tokens of the prompt.
        fim: layouts of the model; None if it has none.
    """
    for layout in fim.known if fim else ():
        if places := _places(layout, tokens):
            return _framed(head, tokens, layout, places)
    return plain_prompt(head, tokens)


def _places(layout: BoundLayout, tokens: list[int]) -> list[int]:
    """Return the index of each token of the layout's frame; [] if the prompt is not framed in it."""
    if any(tokens.count(token) != 1 for token in layout.frame):
        return []
    places = [tokens.index(token) for token in layout.frame]
    if any(a >= b for a, b in pairwise(places)):
        return []
    if any(places[n + 1] != places[n] + 1 for n in layout.joined):
        return []
    # With nothing after the last token, adjacent tokens are those of an empty prefix in another layout.
    return [] if layout.joined and places[-1] == len(tokens) - 1 else places


def _framed(head: list[int], tokens: list[int], layout: BoundLayout, places: list[int]) -> Prompt:
    start, files, header = _context(tokens[: places[0]], layout.separator)
    fixed: list[list[int]] = [[*head, *start], header]
    order: list[PromptField] = ["files"]
    texts = {"before": list[int](), "after": list[int]()}
    ends = [*places[1:], len(tokens)]
    nth = -1
    for part in layout.infill:
        if isinstance(part, int):
            fixed[-1].append(part)
            nth += 1
        else:
            name = FIELDS[part]
            order.append(name)
            texts[name] = tokens[places[nth] + 1 : ends[nth]]
            fixed.append([])
    if isinstance(layout.infill[-1], int):  # the client has begun the completion
        fixed[-1] += tokens[places[-1] + 1 :]
    return Prompt(fixed, tuple(order), texts["before"], texts["after"], files)


def _context(
    tokens: list[int], separator: int | None
) -> tuple[list[int], list[list[int]], list[int]]:
    """Return the parts of the text in front of a frame: its beginning, other files, and the edited file's header."""
    starts = [i for i, token in enumerate(tokens) if token == separator]
    if not starts:
        return ([], _pieces(tokens), []) if len(tokens) > PIECE else (tokens, [], [])
    start = tokens[: starts[0]]
    files = [tokens[a:b] for a, b in pairwise([*starts, len(tokens)])]
    header = files.pop() if len(files[-1]) <= PIECE else []
    if len(start) > PIECE:
        return [], _pieces(start) + files, header
    return start, files, header


def _pieces(tokens: list[int]) -> list[list[int]]:
    return [tokens[i : i + PIECE] for i in range(0, len(tokens), PIECE)]


def find_text_frame(text: str, fim: FimLayouts) -> tuple[BoundLayout, list[str]] | None:
    """Return the layout in which the client framed a prompt, and the texts between its tokens; None if there is none.

    The texts are those before the first token, after each token, and after the last one, without the spaces that are
    part of tokens such as CodeLlama's: in "<PRE> {prefix} <SUF>{suffix} <MID>" there is one before each token and one
    that SentencePiece adds to the prefix.
    """
    for layout in fim.known:
        names = [spelling.removeprefix("▁") for spelling in layout.spellings]
        if any(text.count(name) != 1 for name in names):
            continue
        texts, rest = [], text
        for name in names:
            found, middle, rest = rest.partition(name)
            if not middle:
                break
            texts.append(found.removesuffix(" ") if layout.is_spaced else found)
        else:
            texts.append(rest)
            if not any(texts[n + 1] for n in layout.joined) and (rest or not layout.joined):
                return layout, texts
    return None
