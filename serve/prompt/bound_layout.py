"""Layouts of fill-in-the-middle prompts, with the token ids of one vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

from serve.prompt.layouts import AS_COMMENTS, FimLayout
from turbopilot.base.quoting import quoted

# Part of a template: a token id, one of the fields that may be shortened ("{prefix}"), or text, which may have other
# fields ("{name}\n").
TemplatePart: TypeAlias = int | str

# Tokens of a template, and the fields that may be shortened.
_PIECE: Final = re.compile(r"(\{(?:prefix|suffix|files)\}|▁?<[^<>{}\s]+>|\[[A-Z]+\])")


def tokens_of(template: str) -> list[str]:
    """Return the token names in a template, in order.

    >>> tokens_of("[SUFFIX]{suffix}[PREFIX]{prefix}")
    ['[SUFFIX]', '[PREFIX]']
    """
    return [piece for piece in _PIECE.split(template)[1::2] if not piece.startswith("{")]


def find_id(name: str, ids: Mapping[str, int]) -> int | None:
    """Return a token's id; some files spell SentencePiece's `▁<PRE>` without the space."""
    return ids.get(name, ids.get(name.removeprefix("▁")))


def missing_tokens(template: str, ids: Mapping[str, int]) -> list[str]:
    """Return the token names in a template that a vocabulary does not have."""
    return [name for name in tokens_of(template) if find_id(name, ids) is None]


@dataclass(frozen=True)
class BoundLayout:
    """A layout in the token ids of a vocabulary.

    Attributes:
        infill, project, file: templates of the layout; a token is its id.
        stops: tokens that end a completion, in addition to those of the templates.
        spellings: text of each token in `infill`, in the vocabulary.
        is_spaced: whether clients write `▁` in these texts as a space: "<PRE> {prefix} <SUF>{suffix} <MID>".
    """

    name: str
    infill: tuple[TemplatePart, ...]
    project: tuple[TemplatePart, ...]
    file: tuple[TemplatePart, ...]
    names_lone_file: bool = False
    stops: frozenset[int] = frozenset()
    spellings: tuple[str, ...] = ()
    is_spaced: bool = False

    @cached_property
    def frame(self) -> tuple[int, ...]:
        """Token ids of `infill`, in order."""
        return tuple(part for part in self.infill if isinstance(part, int))

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that begin another part of a prompt or end a completion; they have no text."""
        templates = (*self.infill, *self.project, *self.file)
        return self.stops | {part for part in templates if isinstance(part, int)}

    @cached_property
    def joined(self) -> tuple[int, ...]:
        """Indices in `frame` of the tokens that the next one directly follows."""
        pairs = zip(self.infill, self.infill[1:], strict=False)
        tokens = [isinstance(following, int) for part, following in pairs if isinstance(part, int)]
        return tuple(i for i, is_joined in enumerate(tokens) if is_joined)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The field that follows each token of `frame`: "{prefix}", "{suffix}", or "" if there is none."""
        pairs = zip(self.infill, (*self.infill[1:], ""), strict=True)
        tokens = (following for part, following in pairs if isinstance(part, int))
        return tuple(following if isinstance(following, str) else "" for following in tokens)

    @cached_property
    def separator(self) -> int | None:
        """Token that begins each file; None if there is none."""
        first = self.file[0] if self.file else None
        return first if isinstance(first, int) else None

    @property
    def text(self) -> str:
        """The layout in one line, in which … stands for the text before or after the cursor."""
        # A file may name any token, also one with control characters.
        spellings = (
            s if s.isprintable() and len(s) < 40 else quoted(s, 40) for s in self.spellings
        )
        shown = (next(spellings) if isinstance(part, int) else "…" for part in self.infill)
        return f"{self.name}: {''.join(shown)}"

    def prefix_end(self, prompt: Sequence[int]) -> int | None:
        """Return the index after the text before the cursor; None if the prompt does not end as this layout does."""
        at = self.infill.index("{prefix}")
        if at + 1 == len(self.infill) or not prompt or prompt[-1] != self.infill[-1]:
            return None
        start, end = (_last_index(prompt, self.infill[i]) for i in (at - 1, at + 1))
        return end if 0 <= start < end else None


def _last_index(prompt: Sequence[int], token: TemplatePart) -> int:
    """Return the last index of a token; -1 if the prompt does not have it."""
    return next((i for i in range(len(prompt) - 1, -1, -1) if prompt[i] == token), -1)


def bind(layout: FimLayout, ids: Mapping[str, int], texts: Sequence[str]) -> BoundLayout:
    """Return a layout with the ids of a vocabulary, which has all tokens of `infill`.

    Args:
        layout: the layout.
        ids: token name → id.
        texts: text of each id, for people.
    """
    project, file = layout.project, layout.file
    if missing_tokens(project + file, ids):
        project, file = "", AS_COMMENTS
    stops = (find_id(name, ids) for name in layout.stops)
    infill = _bound(layout.infill, ids)
    spellings = tuple(texts[part] for part in infill if isinstance(part, int))
    return BoundLayout(
        layout.name, infill, _bound(project or "{files}" + layout.infill, ids), _bound(file, ids),
        layout.names_lone_file and bool(project),
        frozenset(stop for stop in stops if stop is not None),
        spellings,
        is_spaced=spellings[0].startswith("▁"),
    )  # fmt: skip


def _bound(template: str, ids: Mapping[str, int]) -> tuple[TemplatePart, ...]:
    parts: list[TemplatePart] = []
    for i, piece in enumerate(_PIECE.split(template)):
        is_token = i % 2 and not piece.startswith("{")
        token = find_id(piece, ids) if is_token else None
        if token is not None:
            parts.append(token)
        elif piece:
            parts.append(piece)
    return tuple(parts)


@dataclass(frozen=True)
class FimLayouts:
    """The layouts of one model.

    Attributes:
        chosen: the layout of the prompts that the server builds.
        known: layouts in which clients may send prompts, those with adjacent tokens first.
    """

    chosen: BoundLayout
    known: tuple[BoundLayout, ...]

    @cached_property
    def ends(self) -> frozenset[int]:
        """Tokens that end a completion and have no text."""
        return frozenset().union(*(layout.ends for layout in (self.chosen, *self.known)))

    def prefix_end(self, prompt: Sequence[int]) -> int:
        """Return the index after the text before the cursor in a prompt."""
        found = (layout.prefix_end(prompt) for layout in self.known)
        return next((end for end in found if end is not None), len(prompt))
