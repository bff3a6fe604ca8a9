"""Token healing: the first tokens of a completion re-spell the last characters before the cursor.

The cursor may split what the model knows as one token: after `return `, the likeliest token is ` self`, but the space
is already there, and a model that has learned to continue a word after it writes `lf`. The prompt therefore ends before
the token or the word at the cursor, and the completion must begin with its bytes, spelled by the same tokens or by
longer ones. These bytes are not part of the text.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from serve.decoder import Logits, Tokenizer
from serve.request import ChosenToken

# Maximum number of tokens that are spelled again. A long name has more, but its beginning is rarely spelled otherwise.
MOST_TOKENS: Final = 4
_SPACES: Final = b" \t"
_WORD: Final = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz") | set(
    range(0x80, 0x100)
)


class PieceIndex:
    """The tokens of a vocabulary, sorted by their bytes. Tokens without text are left out.

    Args:
        tokenizer: the model's tokenizer.
        n_vocab: number of tokens.
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        pieces = [(p, i) for i in range(n_vocab) if (p := tokenizer.piece(i))]
        pieces.sort()
        self.piece = tokenizer.piece
        self._pieces = [p for p, _ in pieces]
        self._ids = np.array([i for _, i in pieces], dtype=np.int64)
        self._is_space = np.array([not p.strip(_SPACES) for p, _ in pieces], dtype=bool)

    def spelling(self, text: bytes) -> npt.NDArray[np.int64]:
        """Return the tokens that spell all of `text`, and possibly more.

        Spaces are not spelled by more spaces, since the user or the editor has indented to the cursor, but may be
        spelled by fewer: `return` often comes with a space of its own.

        Args:
            text: at least one byte.
        """
        start, end = bisect_left(self._pieces, text), len(self._pieces)
        if above := _next_above(text):
            end = bisect_left(self._pieces, above, start)
        if text.strip(_SPACES):
            return self._ids[start:end]
        found = [self._ids[start:end][~self._is_space[start:end]]]
        for n in range(1, len(text) + 1):
            at = bisect_left(self._pieces, text[:n])
            same = bisect_left(self._pieces, text[:n] + b"\0", at)
            found.append(self._ids[at:same])
        return np.concatenate(found)


def _next_above(text: bytes) -> bytes:
    """Return the smallest byte string above all those that begin with `text`; b"" if there is none."""
    kept = text.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


@dataclass(frozen=True, slots=True)
class Healing:
    """The end of the text before the cursor, which the completion re-spells.

    Attributes:
        tokens: the tokens that were taken from the prompt.
        text: their bytes; at least one.
        index: the vocabulary.
        at: index in the prompt from which the tokens were taken.
    """

    tokens: tuple[int, ...]
    text: bytes
    index: PieceIndex = field(repr=False, compare=False)
    at: int = 0

    def token_before(self, n_left: int) -> int | None:
        """Return the prompt's token that begins `n_left` bytes before the cursor; None if none does."""
        left = len(self.text)
        for token in self.tokens:
            if left == n_left:
                return token
            left -= len(self.index.piece(token))
        return None


def heal(before: list[int], index: PieceIndex, *, keep: int = 0) -> Healing | None:
    """Take the last token from the text before the cursor, and the tokens before it that belong to the same word.

    Args:
        before: tokens of that text; those that are spelled again are removed.
        index: the vocabulary.
        keep: number of tokens that remain in any case.

    Returns:
        What the completion re-spells; None if the last token has no text or must remain.
    """
    taken, text = 0, b""
    while taken < min(MOST_TOKENS, len(before) - keep):
        piece = index.piece(before[-1 - taken])
        if not piece or (text and piece[-1] not in _WORD):
            break
        text = piece + text
        taken += 1
        if text[0] not in _WORD:
            break
    if not taken:
        return None
    tokens = tuple(before[-taken:])
    del before[-taken:]
    return Healing(tokens, text, index)


def cut_to(chosen: tuple[ChosenToken, ...], data: bytes) -> tuple[ChosenToken, ...]:
    """Return a chosen token with its new bytes only; nothing if it has none."""
    return tuple(replace(c, token=replace(c.token, data=data)) for c in chosen if data)


class Spelling:
    """Progress of one completion through the text that it re-spells.

    Args:
        healing: None if there is nothing to re-spell.

    Attributes:
        rest: the bytes to re-spell.
        n_tokens: number of tokens that only re-spelled text.
    """

    def __init__(self, healing: Healing | None) -> None:
        self._healing = healing
        self.rest = healing.text if healing else b""
        self.n_tokens = 0

    def mask(self, logits: Logits) -> Logits:
        """Return the logits with minus infinity for every token that does not spell `rest`; a copy if there are any.

        The prompt's own tokens are allowed, but no other parts of a word: a model that has never seen a word in such
        parts does not continue it well.
        """
        if not self.rest or not self._healing:
            return logits
        masked = np.full_like(logits, -np.inf)
        ids = self._healing.index.spelling(self.rest)
        masked[ids] = logits[ids]
        if (token := self._healing.token_before(len(self.rest))) is not None:
            masked[token] = logits[token]
        return masked

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of the next token that are new text."""
        if not self.rest:
            return data
        new = data[len(self.rest) :]
        self.rest = self.rest[len(data) :]
        self.n_tokens += not new
        return new
